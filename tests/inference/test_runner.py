import numpy as np
import pytest
import torch

from amalgam_edge.dropout.masks import DROPOUT_OFF
from amalgam_edge.dropout.sites import LiveDropout, find_sites, training_mode
from amalgam_edge.errors import AmalgamError
from amalgam_edge.inference.runner import prove_dropout_alive
from amalgam_edge.inference.torch_runner import TorchRunner, resolve_device
from tests.support import tiny


@pytest.fixture
def probe(tokenizer):
    return {name: tensor.numpy() for name, tensor in tiny.padded(tokenizer, tiny.TEXTS[:4]).items()}


def make_runner(model, probe, *, device="cpu", **options):
    sites = find_sites(model, {name: torch.from_numpy(array) for name, array in probe.items()})
    return TorchRunner(model, sites, device=device, **options)


def probabilities(logits):
    return torch.tensor(logits).double().softmax(dim=-1).numpy()


def torch_draws(model, probe, copies, rounds):
    """Torch's own train-mode dropout: every copy of a text has a mask of its own. ``(n_draws, n_texts, n_classes)``."""
    inputs = {name: torch.from_numpy(array).repeat(copies, 1) for name, array in probe.items()}
    torch.manual_seed(0)
    model.train()
    with torch.inference_mode():
        found = torch.cat([model(**inputs).logits.reshape(copies, len(probe["input_ids"]), -1) for _ in range(rounds)])
    model.eval()
    return found.numpy()


def own_draws(model, probe, *, masks, passes, seeds):
    """``(n_seeds, n_passes, n_texts, n_classes)``."""
    runners = [make_runner(model, probe, seed=seed, passes=passes, masks=masks) for seed in seeds]
    return np.stack([probabilities(runner.run(**probe, passes=range(passes))) for runner in runners])


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
@pytest.mark.parametrize("masks", ["systematic", "independent"])
def test_passes_are_distributed_as_those_of_torch(random_classifier, probe, architecture, masks):
    model = random_classifier(architecture=architecture, dropout=0.2, layers=1)
    own = own_draws(model, probe, masks=masks, passes=16, seeds=range(1, 17))
    theirs = probabilities(torch_draws(model, probe, copies=250, rounds=8))
    of_seeds = own.mean(axis=1)
    error = np.sqrt(of_seeds.var(axis=0, ddof=1) / len(of_seeds) + theirs.var(axis=0) / len(theirs))
    # Twelve comparisons by a t statistic of 15 degrees of freedom: each beyond 6 with a chance of 2e-5.
    assert (np.abs(of_seeds.mean(axis=0) - theirs.mean(axis=0)) < 6 * error).all()
    assert (error < 0.06).all()
    spread = own.std(axis=(0, 1)) / theirs.std(axis=0)
    assert spread.min() > 0.75
    assert spread.max() < 1.33
    assert theirs.std(axis=0).min() > 0.01


def test_systematic_masks_estimate_no_worse_than_independent_ones(random_classifier, probe):
    model = random_classifier(dropout=0.2, layers=1)
    truth = probabilities(torch_draws(model, probe, copies=250, rounds=16)).mean(axis=0)

    def error(draws):
        return np.sqrt(np.square(draws.mean(axis=1) - truth).mean())

    independent = own_draws(model, probe, masks="independent", passes=96, seeds=range(1, 7))
    for passes in (16, 96):
        systematic = own_draws(model, probe, masks="systematic", passes=passes, seeds=range(1, 7))
        assert error(systematic) < 1.15 * error(independent[:, :passes])


def test_without_dropout_the_runner_answers_as_the_model_does(random_classifier, probe):
    model = random_classifier()
    found = make_runner(model, probe).run(**probe, passes=[DROPOUT_OFF])
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(array) for name, array in probe.items()}).logits
    np.testing.assert_array_equal(found, expected.numpy()[None])
    assert found.dtype == np.float32


def test_passes_come_in_the_order_asked_for(random_classifier, probe):
    runner = make_runner(random_classifier(), probe, passes=8)
    asked = runner.run(**probe, passes=[5, DROPOUT_OFF, 2, 5])
    assert asked.shape == (4, 4, runner.n_classes)
    np.testing.assert_array_equal(asked[0], asked[3])
    for position, number in enumerate([5, DROPOUT_OFF, 2]):
        np.testing.assert_array_equal(asked[position], runner.run(**probe, passes=[number])[0])
    assert np.abs(asked[0] - asked[2]).max() > 0.05
    assert np.abs(asked[0] - asked[1]).max() > 0.05


@pytest.mark.parametrize("masks", ["systematic", "independent"])
@pytest.mark.parametrize("architecture", ["bert", "deberta-v2"])
def test_the_runner_answers_as_the_model_does_under_the_same_masks(random_classifier, probe, architecture, masks):
    model = random_classifier(architecture=architecture)
    inputs = {name: torch.from_numpy(array) for name, array in probe.items()}
    sites = find_sites(model, inputs)
    unbatched = [site.number for site in sites if not site.batched]
    assert bool(unbatched) == (architecture == "deberta-v2")
    found = TorchRunner(model, sites, seed=5, passes=4, masks=masks, device="cpu").run(**probe, passes=[3, 0, 6])
    for logits, mc_pass in zip(found, [3, 0, 6], strict=True):
        mode = LiveDropout(5, 4, masks, unbatched=unbatched)
        mode.start(mc_pass)
        with torch.inference_mode(), training_mode(model), mode:
            np.testing.assert_array_equal(logits, model(**inputs).logits.numpy())


@pytest.mark.parametrize("masks", ["systematic", "independent"])
def test_a_runner_neither_reads_nor_moves_torchs_generator(random_classifier, probe, masks):
    runner = make_runner(random_classifier(), probe, masks=masks)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(runner.run(**probe, passes=[DROPOUT_OFF, 0, 1]))
        assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(*found)


def test_the_seed_chooses_the_masks(random_classifier, probe):
    model = random_classifier()
    first, same, other = (make_runner(model, probe, seed=s).run(**probe, passes=[0]) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 0.05


def test_masks_are_systematic_over_sixteen_passes_of_seed_zero_unless_told_otherwise(random_classifier, probe):
    model = random_classifier()
    explicit = make_runner(model, probe, seed=0, passes=16, masks="systematic")
    passes = [0, 1, 15, 16, 17]
    np.testing.assert_array_equal(
        make_runner(model, probe).run(**probe, passes=passes), explicit.run(**probe, passes=passes)
    )


def test_the_model_is_left_in_evaluation_mode(random_classifier, probe):
    model = random_classifier()
    runner = make_runner(model, probe)
    runner.run(**probe, passes=[0])
    assert not model.training
    with pytest.raises(IndexError):
        runner.run(np.full((1, 3), 10**6), np.ones((1, 3), dtype=np.int64), [0])
    assert not model.training


def test_live_dropout_is_proven(random_classifier, probe):
    prove_dropout_alive("t", make_runner(random_classifier(), probe), **probe)


def test_a_model_whose_dropout_is_zero_is_refused(random_classifier, probe):
    runner = make_runner(random_classifier(dropout=0.0), probe)
    with pytest.raises(AmalgamError, match=r"'dead'.*dropout is off"):
        prove_dropout_alive("dead", runner, **probe)


def test_a_model_stuck_in_evaluation_mode_is_refused(random_classifier, probe, monkeypatch):
    model = random_classifier()
    runner = make_runner(model, probe)
    monkeypatch.setattr(model, "train", lambda mode=True: model)
    with pytest.raises(AmalgamError, match="dropout is off"):
        prove_dropout_alive("t", runner, **probe)


def test_a_model_that_draws_numbers_of_its_own_is_refused(random_classifier, probe):
    model = random_classifier()
    handle = model.classifier.register_forward_hook(lambda module, args, out: out + 1e-3 * torch.randn_like(out))
    with pytest.raises(AmalgamError, match="does not repeat"):
        prove_dropout_alive("t", make_runner(model, probe), **probe)
    handle.remove()


class Fake:
    """A runner that answers with a function of the position and number of each pass."""

    n_classes = 3

    def __init__(self, answer):
        self.answer = answer

    def run(self, input_ids, attention_mask, passes):
        return np.stack([np.full((len(input_ids), 3), self.answer(k, n), np.float32) for k, n in enumerate(passes)])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda position, number: 1.0, "dropout is off"),
        (lambda position, number: position, "does not repeat"),
        (lambda position, number: number + 1e-6 * position, "does not repeat"),
    ],
)
def test_dead_and_random_runners_are_refused(probe, answer, said):
    with pytest.raises(AmalgamError, match=said):
        prove_dropout_alive("t", Fake(answer), **probe)


def test_a_runner_that_answers_by_the_number_of_the_pass_is_accepted(probe):
    prove_dropout_alive("t", Fake(lambda position, number: 1e-6 * number), **probe)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_a_cuda_device_that_is_not_there_is_refused(random_classifier, device):
    with pytest.raises(AmalgamError, match=f"--device {device}: torch sees no CUDA"):
        TorchRunner(random_classifier(), (), device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_beyond_the_last_is_refused(random_classifier):
    with pytest.raises(AmalgamError, match="cuda:99"):
        TorchRunner(random_classifier(), (), device="cuda:99")


@pytest.mark.parametrize("device", ["tpu", "", "cpu:x"])
def test_a_device_that_is_no_device_is_refused(device):
    with pytest.raises(AmalgamError, match="no such device"):
        resolve_device(device)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an MPS device")
def test_a_device_of_another_kind_that_is_not_there_is_refused(random_classifier):
    with pytest.raises(AmalgamError, match="mps"):
        TorchRunner(random_classifier(), (), device="mps")


def test_auto_takes_what_is_there():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here to compare the CPU with")
def test_a_cuda_device_gives_the_logits_of_the_cpu_pass_by_pass(random_classifier, probe):
    passes = [DROPOUT_OFF, 0, 1, 15]
    cpu, cuda = (
        make_runner(random_classifier(), probe, device=device).run(**probe, passes=passes) for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(cuda, cpu, atol=1e-3)


def test_half_precision_on_the_cpu_is_refused(random_classifier):
    with pytest.raises(AmalgamError, match="fp16 needs a GPU"):
        TorchRunner(random_classifier(), (), device="cpu", half=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here to compute in half precision")
def test_half_precision_gives_nearly_the_logits_of_single_and_leaves_the_model(random_classifier, probe):
    model = random_classifier()
    half = make_runner(model, probe, device="cuda", half=True)
    single = make_runner(random_classifier(), probe, device="cuda")
    passes = [DROPOUT_OFF, 0, 1, 15]
    np.testing.assert_allclose(half.run(**probe, passes=passes), single.run(**probe, passes=passes), atol=0.05)
    assert model.dtype == torch.float32
