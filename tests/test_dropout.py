import itertools
import math

import numpy as np
import pytest
import scipy.stats
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from amalgam_edge.dropout import LiveDropout, find_sites, keep_mask, mix, unit_hashes
from amalgam_edge.errors import AmalgamError

SEEDS = (0, 1, 7, 2**31, 2**32, 2**32 + 1, 123_456_789_012)
UNIT = 2**24
ODD = (1, 3, 5, 7, 9, 11, 13, 15)
FIVE_SIGMA = 5.0


def uniform(seed, site, shape):
    return unit_hashes(seed, site, shape).double().numpy() / UNIT


def drops(p, passes, mc_pass, *, seed=0, site=1, shape=(64, 128)):
    return ~keep_mask(unit_hashes(seed, site, shape), p, mc_pass, passes).numpy()


def live_masks(masks, p=0.1, passes=16, shape=(40, 50), seed=3):
    """Which units of one site fall in each pass, read off a tensor of ones."""
    mode = LiveDropout(seed, passes, masks)
    found = []
    with mode:
        for mc_pass in range(passes):
            mode.start(mc_pass)
            found.append((F.dropout(torch.ones(1, *shape), p, training=True)[0] == 0).numpy())
    return np.stack(found)


# --- the hash


def test_mix_is_injective_on_consecutive_and_on_scattered_words():
    consecutive = mix(torch.arange(1 << 18, dtype=torch.int64))
    assert consecutive.unique().numel() == 1 << 18
    scattered = torch.arange(1 << 18, dtype=torch.int64) << 14
    assert mix(scattered).unique().numel() == 1 << 18
    for words in (consecutive, mix(scattered)):
        assert words.min() >= 0 and words.max() < 2**32


def test_mix_flips_about_half_of_the_output_bits_for_each_input_bit():
    words = torch.from_numpy(np.random.default_rng(0).integers(0, 2**32, 4096))
    for bit in range(32):
        flipped = mix(words) ^ mix(words ^ (1 << bit))
        share = torch.stack([(flipped >> out) & 1 for out in range(32)]).double().mean(dim=1)
        assert abs(share.mean() - 0.5) < 0.01
        assert (share - 0.5).abs().max() < 0.1


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**40),
    st.integers(0, 200),
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=3),
)
def test_longer_shapes_extend_shorter_ones(seed, site, sizes):
    short = unit_hashes(seed, site, [size for size, _ in sizes])
    long = unit_hashes(seed, site, [size + more for size, more in sizes])
    assert torch.equal(long[tuple(slice(size) for size, _ in sizes)], short)


def test_hashes_have_24_bits_and_are_uniform():
    hashes = unit_hashes(5, 2, (256, 256))
    assert hashes.dtype == torch.int32
    assert hashes.min() >= 0 and hashes.max() < UNIT
    assert scipy.stats.kstest(hashes.double().numpy().ravel() / UNIT, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_no_two_sites_share_a_row_of_units(seed):
    sites = [*range(24), *(site + (drawn << 16) for site in range(3) for drawn in range(1, 4))]
    rows = torch.cat([unit_hashes(seed, site, (24, 16)) for site in sites])
    assert rows.unique(dim=0).shape[0] == len(rows)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_two_heads_share_a_row_of_units(seed):
    rows = torch.cat([unit_hashes(seed, site, (4, 12, 12)).reshape(48, 12) for site in range(12)])
    assert rows.unique(dim=0).shape[0] == len(rows)


@pytest.mark.parametrize("seed", [0, 1, 42])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("lag", [1, 2])
def test_neighbouring_units_are_uncorrelated(seed, axis, lag):
    u = uniform(seed, 3, (256, 256))
    ahead, behind = np.take(u, range(lag, 256), axis), np.take(u, range(256 - lag), axis)
    r = np.corrcoef(ahead.ravel(), behind.ravel())[0, 1]
    assert abs(r) < FIVE_SIGMA / math.sqrt(ahead.size)


@pytest.mark.parametrize("axis", [0, 1])
def test_pairs_of_neighbours_fall_as_independent_coins_do(axis):
    p = 0.3
    fallen = drops(p, 16, 5, shape=(256, 256))
    first, second = np.take(fallen, range(0, 256, 2), axis), np.take(fallen, range(1, 256, 2), axis)
    counts = [((first == a) & (second == b)).sum() for a, b in itertools.product([True, False], repeat=2)]
    expected = [first.size * chance for chance in (p * p, p * (1 - p), (1 - p) * p, (1 - p) ** 2)]
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-5


@pytest.mark.parametrize(
    "pair", [((0, 1), (0, 2)), ((0, 0), (0, 1)), ((0, 3), (1, 3)), ((0, 3), (2**32, 3)), ((1, 0), (0, 1))]
)
def test_sites_and_seeds_are_uncorrelated(pair):
    first, second = (uniform(seed, site, (128, 256)) for seed, site in pair)
    r = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    assert abs(r) < FIVE_SIGMA / math.sqrt(first.size)


# --- the masks


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("masks", ["systematic", "independent"])
def test_each_pass_drops_its_share_of_units(masks, p):
    fallen = live_masks(masks, p=p).reshape(16, -1)
    n = fallen.shape[1]
    assert (np.abs(fallen.sum(axis=1) - n * p) < FIVE_SIGMA * math.sqrt(n * p * (1 - p))).all()
    assert fallen.any(axis=1).all()


@pytest.mark.parametrize(("p", "passes"), [(0.1, 16), (0.1, 10), (0.1, 5), (0.3, 7), (0.5, 2), (0.9, 16)])
def test_systematic_masks_drop_every_unit_its_fair_share_of_times(p, passes):
    times = live_masks("systematic", p=p, passes=passes).sum(axis=0)
    assert set(np.unique(times)) <= {math.floor(p * passes + 1e-9), math.ceil(p * passes - 1e-9)}
    share = p * passes - math.floor(p * passes + 1e-9)
    assert abs((times - p * passes).mean()) < FIVE_SIGMA * math.sqrt(max(share * (1 - share), 1e-9) / times.size) + 1e-6


def test_independent_masks_are_binomial_over_the_passes():
    times = live_masks("independent", p=0.1, passes=16).sum(axis=0).ravel()
    expected = scipy.stats.binom.pmf(range(5), 16, 0.1)
    counts = [*((times == k).sum() for k in range(5)), (times >= 5).sum()]
    assert scipy.stats.chisquare(counts, [*expected * times.size, (1 - expected.sum()) * times.size]).pvalue > 1e-5


@pytest.mark.parametrize("masks", ["systematic", "independent"])
def test_pairs_of_units_fall_together_more_evenly_with_more_passes(masks):
    # Balancing single units must not tie pairs together: averages of nonlinear models would stop converging in K.
    p, passes = 0.1, 128
    fallen = live_masks(masks, p=p, passes=passes).reshape(passes, -1)
    together = (fallen[:, ::2] & fallen[:, 1::2]).mean(axis=0)
    of_independent_passes = math.sqrt(p**2 * (1 - p**2) / passes)
    assert np.sqrt(np.square(together - p**2).mean()) < 1.15 * of_independent_passes


@pytest.mark.parametrize("masks", ["systematic", "independent"])
def test_no_two_passes_are_alike(masks):
    found = live_masks(masks, passes=16)
    assert len({mask.tobytes() for mask in found}) == 16


@pytest.mark.parametrize("mc_pass", [0, 5, 15])
def test_the_mask_by_hand(mc_pass):
    p, passes, seed = 0.3, 16, 9
    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    module = torch.nn.Dropout(p).train()
    mode = LiveDropout(seed, passes)
    with mode:
        mode.start(mc_pass)
        first, second = module(x), module(x)
    for site, found in enumerate((first, second)):
        hashes = unit_hashes(seed, site, (6, 8)).tolist()
        for i, j in itertools.product(range(6), range(8)):
            stride = ODD[hashes[i][j] % 256 % 8]  # the numbers coprime to 16 are the odd ones
            stays = (hashes[i][j] + stride * mc_pass % passes * UNIT // passes) % UNIT >= round(p * UNIT)
            expected = x[:, i, j] / (1 - p) if stays else torch.zeros(4)
            torch.testing.assert_close(found[:, i, j], expected)
    assert not torch.equal(first, second)


def test_a_dropout_of_zero_passes_its_input_and_keeps_its_number():
    x = torch.ones(1, 200)
    mode = LiveDropout(0, 4)
    with mode:
        mode.start(1)
        untouched = F.dropout(x, 0.0, training=True)
        after_zero = F.dropout(x, 0.5, training=True)
        mode.start(1)
        F.dropout(x, 0.5, training=True)
        after_half = F.dropout(x, 0.5, training=True)
    assert torch.equal(untouched, x)
    assert torch.equal(after_zero, after_half)


def test_a_dropout_of_one_leaves_nothing():
    mode = LiveDropout(0, 4)
    with mode:
        mode.start(0)
        assert torch.equal(F.dropout(torch.ones(2, 5), 1.0, training=True), torch.zeros(2, 5))


def test_half_precision_stays_half_precision():
    mode = LiveDropout(0, 4)
    with mode:
        mode.start(0)
        assert F.dropout(torch.ones(2, 5, dtype=torch.float16), 0.5, training=True).dtype == torch.float16


def test_masks_neither_read_nor_move_torchs_generator():
    x = torch.ones(1, 100)
    mode = LiveDropout(0, 4)
    found = []
    with mode:
        for seed in (1, 2):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            mode.start(3)
            found.append(F.dropout(x, 0.5, training=True))
            assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*found)


def test_short_texts_keep_their_mask_after_long_ones():
    mode = LiveDropout(0, 4)
    found = []
    with mode:
        for length in (3, 9, 3):
            mode.start(2)
            found.append(F.dropout(torch.ones(1, length, length), 0.5, training=True)[0])
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1][:3, :3], found[0])


# --- on models


def passes_over(model, inputs, numbers, **options):
    mode = LiveDropout(**{"seed": 0, "passes": 16, **options})
    model.train()
    found = []
    with mode, torch.inference_mode():
        for number in numbers:
            mode.start(number)
            found.append(model(**inputs).logits)
    model.eval()
    return found


@pytest.mark.parametrize("masks", ["systematic", "independent"])
def test_a_pass_repeats_to_the_bit_and_others_differ(random_classifier, tokenizer, masks):
    model, inputs = random_classifier(), tiny.padded(tokenizer, tiny.TEXTS)
    first, second, again = passes_over(model, inputs, [0, 1, 0], masks=masks)
    assert torch.equal(first, again)
    assert (first - second).abs().max() > 0.05
    (elsewhere,) = passes_over(model, inputs, [0], masks=masks)
    assert torch.equal(elsewhere, first)
    (other_seed,) = passes_over(model, inputs, [0], masks=masks, seed=1)
    assert (other_seed - first).abs().max() > 0.05


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_texts_logits_do_not_depend_on_its_batch_or_padding(random_classifier, tokenizer, architecture):
    model = random_classifier(architecture=architecture)
    (together,) = passes_over(model, tiny.padded(tokenizer, tiny.TEXTS), [3])
    (longer,) = passes_over(model, tiny.padded(tokenizer, tiny.TEXTS, length=40), [3])
    alone = torch.cat([passes_over(model, tiny.padded(tokenizer, [text]), [3])[0] for text in tiny.TEXTS[:6]])
    torch.testing.assert_close(longer, together, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(alone, together[:6], atol=2e-5, rtol=1e-4)
    assert (together - model(**tiny.padded(tokenizer, tiny.TEXTS)).logits).abs().max() > 0.05


def test_a_model_in_evaluation_mode_is_left_alone(random_classifier, tokenizer):
    model, inputs = random_classifier(), tiny.padded(tokenizer, tiny.TEXTS)
    mode = LiveDropout(0, 16)
    with torch.inference_mode():
        plain = model(**inputs).logits
        with mode:
            mode.start(0)
            assert torch.equal(model(**inputs).logits, plain)
        assert torch.equal(model(**inputs).logits, plain)


def test_relative_positions_have_masks_of_their_own(random_classifier, tokenizer):
    model = random_classifier(architecture="deberta-v2")
    seen = {}

    def look(module, args, out):
        seen[module] = args[0].detach(), out.detach()

    for name, module in model.named_modules():
        if name.endswith("pos_dropout"):
            module.register_forward_hook(look)
    inputs = tiny.padded(tokenizer, tiny.TEXTS[:3])
    unbatched = [site.number for site in find_sites(model, inputs) if not site.batched]
    assert len(unbatched) == 2
    passes_over(model, inputs, [0], unbatched=unbatched)
    assert len(seen) == 2
    for before, after in seen.values():
        fallen = (after == 0) & (before != 0)
        assert fallen.any()
        assert fallen.unique(dim=0).shape[0] > 1


SITES = {
    "bert": (
        ["bert.embeddings.dropout"],
        ["bert.encoder.layer.{}.attention.self", "bert.encoder.layer.{}.attention.output.dropout",
         "bert.encoder.layer.{}.output.dropout"],
        ["dropout"],
    ),
    "distilbert": (
        ["distilbert.embeddings.dropout"],
        ["distilbert.transformer.layer.{}.attention", "distilbert.transformer.layer.{}.ffn.dropout"],
        ["dropout"],
    ),
    "mpnet": (
        ["mpnet.embeddings.dropout"],
        ["mpnet.encoder.layer.{}.attention.attn.dropout", "mpnet.encoder.layer.{}.attention.dropout",
         "mpnet.encoder.layer.{}.output.dropout"],
        ["classifier.dropout", "classifier.dropout"],
    ),
    "deberta-v2": (
        ["deberta.embeddings.dropout"],
        ["deberta.encoder.layer.{}.attention.self.pos_dropout", "deberta.encoder.layer.{}.attention.self.dropout",
         "deberta.encoder.layer.{}.attention.output.dropout", "deberta.encoder.layer.{}.output.dropout"],
        ["pooler.dropout", "dropout"],
    ),
    "modernbert": (
        ["model.embeddings.drop"],
        ["model.layers.{}.attn", "model.layers.{}.attn.out_drop", "model.layers.{}.mlp.drop"],
        ["drop"],
    ),
    "albert": (
        ["albert.embeddings.dropout"],
        ["albert.encoder.albert_layer_groups.0.albert_layers.0.attention",
         "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.output_dropout"],
        ["dropout"],
    ),
}  # fmt: skip
for _name, _prefix in (
    ("roberta", "roberta"),
    ("xlm-roberta", "roberta"),
    ("camembert", "roberta"),
    ("electra", "electra"),
):
    SITES[_name] = (
        [f"{_prefix}.embeddings.dropout"],
        [site.replace("bert.", f"{_prefix}.", 1) for site in SITES["bert"][1]],
        ["classifier.dropout", "classifier.dropout"],
    )


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("layers", [1, 3])
def test_every_dropout_of_every_architecture_is_found(random_classifier, tokenizer, architecture, layers):
    model = random_classifier(architecture=architecture, layers=layers)
    inputs = tiny.padded(tokenizer, tiny.TEXTS[:3])
    sites = find_sites(model, inputs)
    before, of_layer, after = SITES[architecture]
    expected = [*before, *(site.format(k) for k in range(layers) for site in of_layer), *after]
    assert [site.module for site in sites] == expected
    assert [site.number for site in sites] == list(range(len(expected)))
    assert {site.p for site in sites} == {0.1}
    length = inputs["input_ids"].shape[1]
    assert [site.shape for site in sites].count((2, length, length)) == layers


class Draws(TorchDispatchMode):
    """Counts the random tensors that torch itself draws."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_there_is_a_site_for_each_random_draw_of_torch(random_classifier, tokenizer, architecture):
    model, inputs = random_classifier(architecture=architecture), tiny.padded(tokenizer, tiny.TEXTS[:3])
    sites = find_sites(model, inputs)
    with torch.inference_mode(), Draws() as draws:
        model.train()(**inputs)
    model.eval()
    assert draws.n == len(sites) > 0


def test_no_random_draw_is_left_under_live_dropout(random_classifier, tokenizer):
    model, inputs = random_classifier().train(), tiny.padded(tokenizer, tiny.TEXTS[:3])
    mode = LiveDropout(0, 16)
    with torch.inference_mode(), Draws() as draws, mode:
        mode.start(0)
        model(**inputs)
    model.eval()
    assert draws.n == 0


def test_sites_at_zero_are_not_live_but_numbered(random_classifier, tokenizer):
    model = random_classifier(attention_probs_dropout_prob=0.0)
    sites = find_sites(model, tiny.padded(tokenizer, tiny.TEXTS[:2]))
    assert [site.number for site in sites] == [0, 2, 3, 5, 6, 7]
    assert not any(site.module.endswith("self") for site in sites)


def test_a_model_without_dropout_has_no_sites(random_classifier, tokenizer):
    assert find_sites(random_classifier(dropout=0.0), tiny.padded(tokenizer, tiny.TEXTS[:2])) == ()


def test_albert_has_a_site_for_each_run_of_its_layer(random_classifier, tokenizer):
    model = random_classifier(architecture="albert", layers=4)
    attention = [s.number for s in find_sites(model, tiny.padded(tokenizer, ["x"])) if s.module.endswith("attention")]
    assert attention == [1, 3, 5, 7]


@pytest.mark.parametrize("training", [True, False])
def test_finding_sites_leaves_the_model_as_it_was(random_classifier, tokenizer, training):
    model = random_classifier().train(training)
    find_sites(model, tiny.padded(tokenizer, ["x"]))
    with pytest.raises(ValueError, match="input_ids"):
        find_sites(model, {})
    assert model.training is training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    model.eval()


@pytest.mark.parametrize(
    "drop", [F.alpha_dropout, F.feature_alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d], ids=lambda f: f.__name__
)
def test_other_kinds_of_dropout_are_refused(drop):
    mode = LiveDropout(0, 16)
    with mode, pytest.raises(AmalgamError, match=drop.__name__):
        drop(torch.ones(2, 3, 4, 4), 0.5, True)


def test_masks_that_a_model_draws_itself_are_refused():
    mode = LiveDropout(0, 16)
    with mode, pytest.raises(AmalgamError, match="bernoulli"):
        torch.bernoulli(torch.full((2, 3), 0.5))


def attend(**options):
    q = torch.ones(1, 2, 4, 8)
    return F.scaled_dot_product_attention(q, q, q, **options)


def test_dropout_inside_fused_attention_is_refused():
    mode = LiveDropout(0, 16)
    with mode:
        assert attend(dropout_p=0.0).shape == (1, 2, 4, 8)
        with pytest.raises(AmalgamError, match="eager"):
            attend(dropout_p=0.1)


def test_dropout_inside_fused_attention_is_refused_however_it_is_passed():
    q = torch.ones(1, 2, 4, 8)
    mode = LiveDropout(0, 16)
    with mode, pytest.raises(AmalgamError, match="eager"):
        F.scaled_dot_product_attention(q, q, q, None, 0.1)


def test_a_model_with_fused_attention_is_refused(random_classifier, tokenizer):
    model = random_classifier()
    model.set_attn_implementation("sdpa")
    with pytest.raises(AmalgamError, match="eager"):
        find_sites(model, tiny.padded(tokenizer, tiny.TEXTS[:2]))
    assert not model.training
