import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from amalgam_edge.dropout.masks import DROPOUT_OFF, DropoutPass, site_word, unit_hashes
from amalgam_edge.dropout.sites import LiveDropout, find_sites
from amalgam_edge.errors import AmalgamError
from tests.support import tiny

ODD = (1, 3, 5, 7, 9, 11, 13, 15)
KINDS = ("systematic", "independent")


def mask_of(seed, site, mc_pass, shape, p, *, passes=16, masks="systematic"):
    """What a site's values are multiplied with, as :mod:`amalgam_edge.dropout.masks` has it."""
    one = DropoutPass(mc_pass, passes, masks)
    word = site_word(torch.tensor(seed, dtype=torch.int32), site, one.round_number)
    return one.mask(unit_hashes(word, shape), p)


# --- the masks


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
        drawn = unit_hashes(site_word(torch.tensor(seed, dtype=torch.int32), site, 0), (6, 8))
        hashes, rows, columns = drawn.hashes.tolist(), drawn.row_choices[:, 0].tolist(), drawn.column_choices.tolist()
        for i, j in itertools.product(range(6), range(8)):
            stride = ODD[rows[i] * 8 // 2**15] * ODD[columns[j] * 8 // 2**15]  # the numbers coprime to 16 are odd
            moved = (hashes[i][j] + 2**31 + stride * mc_pass % passes * 2**32 // passes) % 2**32
            expected = x[:, i, j] / (1 - p) if moved >= round(p * 2**32) else torch.zeros(4)
            torch.testing.assert_close(found[:, i, j], expected)
    assert not torch.equal(first, second)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(DROPOUT_OFF, 12), st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=8),
    st.integers(0, 2**31 - 1),
    st.sampled_from(KINDS),
)
def test_masks_do_not_depend_on_what_was_asked_before(runs, seed, masks):
    mode = LiveDropout(seed, 4, masks, unbatched=[1])
    with mode:
        for mc_pass, length, width in runs:
            mode.start(mc_pass)
            batched = F.dropout(torch.ones(2, length, width), 0.5, training=True)
            unbatched = F.dropout(torch.ones(2, length, width), 0.3, training=True)
            alone = F.dropout(torch.ones(2, width), 0.1, training=True)
            options = {"passes": 4, "masks": masks}
            expected = mask_of(seed, 0, mc_pass, (length, width), 0.5, **options)
            assert torch.equal(batched, torch.stack([expected, expected]))
            assert torch.equal(unbatched, mask_of(seed, 1, mc_pass, (2, length, width), 0.3, **options))
            expected = mask_of(seed, 2, mc_pass, (width,), 0.1, **options)
            assert torch.equal(alone, torch.stack([expected, expected]))


@pytest.mark.parametrize("masks", KINDS)
def test_a_pass_without_dropout_leaves_values_alone(masks):
    x = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    mode = LiveDropout(0, 4, masks)
    with mode:
        for mc_pass in (DROPOUT_OFF, 1, DROPOUT_OFF):
            mode.start(mc_pass)
            assert torch.equal(F.dropout(x, 0.5, training=True), x) == (mc_pass == DROPOUT_OFF)


@pytest.mark.parametrize("seed", [2**31 - 1, 2**30, 0])
def test_every_seed_has_masks_of_its_own(seed):
    found = []
    for one in (seed, seed ^ 1):
        mode = LiveDropout(one, 4)
        with mode:
            mode.start(0)
            found.append(F.dropout(torch.ones(1, 200), 0.5, training=True))
    assert not torch.equal(*found)


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


@pytest.mark.parametrize("masks", KINDS)
def test_masks_neither_read_nor_move_torchs_generator(masks):
    x = torch.ones(1, 100)
    found = []
    for seed in (1, 2):
        mode = LiveDropout(0, 4, masks)
        with mode:
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
