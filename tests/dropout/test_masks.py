import functools
import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amalgam_edge.dropout.masks import (
    DROPOUT_OFF,
    DropoutPass,
    UnitHashes,
    coordinate_words,
    mix,
    site_word,
    strides,
    unit_hashes,
)

SEEDS = (0, 1, 7, 2**30, 2**31 - 1, 123_456_789)
RATES = (0.05, 0.1, 0.25, 0.5)
KINDS = ("systematic", "independent")
BALANCED = (*range(2, 17), 32, 64)  # numbers of passes
WORDS = 2**32
FIVE_SIGMA = 5.0
SIX_SIGMA = 6.0  # where the largest of some hundred thousand numbers counts
SEVEN_SIGMA = 7.0  # and where they are sums of products of rare events, which are skewed


def int32(number):
    return torch.tensor(number, dtype=torch.int32)


def draw(seed, site, shape, round_number=0):
    return unit_hashes(site_word(int32(seed), site, round_number), shape)


def uniform(seed, site, shape, round_number=0):
    return draw(seed, site, shape, round_number).hashes.double().numpy() / WORDS + 0.5


def mask_of(p, passes, mc_pass, *, seed=0, site=1, shape=(64, 128), masks="systematic"):
    one = DropoutPass(mc_pass, passes, masks)
    return one.mask(draw(seed, site, shape, one.round_number), p)


remembered = functools.lru_cache(maxsize=32)(draw)


def drops(p, passes, mc_pass, *, seed=0, site=1, shape=(64, 128), masks="systematic"):
    one = DropoutPass(mc_pass, passes, masks)
    return (one.mask(remembered(seed, site, shape, one.round_number), p) == 0).numpy()


def drops_of_all(p, passes, *, round_number=0, **options):
    """``(passes, *shape)``."""
    first = round_number * passes
    return np.stack([drops(p, passes, mc_pass, **options) for mc_pass in range(first, first + passes)])


def standardised(fallen, p):
    """Zero mean and unit variance, if each falls with probability p."""
    return (fallen - p) / math.sqrt(p * (1 - p))


def coprimes(passes):
    return [number for number in range(1, passes + 1) if math.gcd(number, passes) == 1]


def fair_share(p, passes):
    """The numbers of passes that a unit may fall in."""
    exact = Fraction(str(p)) * passes
    return {math.floor(exact), math.ceil(exact)}


# --- the hash, in Python's integers


def mix_by_hand(word):
    for multiplier in (0x7FEB352D, 0x21F0AAAD):
        word = (word ^ (word % 2**31 >> 15)) * multiplier % WORDS
    return word ^ (word % 2**31 >> 16)


def unmix_by_hand(word):
    def unshift(shifted, bits):
        found = shifted
        for _ in range(3):
            found = shifted ^ (found % 2**31 >> bits)
        return found

    word = unshift(word, 16)
    for multiplier in (0x21F0AAAD, 0x7FEB352D):
        word = unshift(word * pow(multiplier, -1, WORDS) % WORDS, 15)
    return word


def numbered_by_hand(number):
    return (number + 1) * 0x9E3779B9 % WORDS  # 2**32 / φ


def site_by_hand(seed, site, round_number=0):
    word = mix_by_hand((mix_by_hand(seed ^ 0x3C6EF372) + mix_by_hand(numbered_by_hand(round_number))) % WORDS)
    return mix_by_hand((word + numbered_by_hand(site)) % WORDS)


def unit_by_hand(word, coordinates):
    """Hash and the two numbers that choose strides, of one unit."""
    *in_row, in_column = coordinates
    row = word
    for coordinate in in_row:
        row = mix_by_hand((row + mix_by_hand(numbered_by_hand(coordinate))) % WORDS)
    column = mix_by_hand(((word ^ 0x1B873593) + mix_by_hand(numbered_by_hand(in_column))) % WORDS)
    row_factor, column_factor = (mix_by_hand(of ^ 0x5A827999) for of in (row, column))
    odd = (row // 2 * 2 + 1) + column // 2 * 2
    return odd * (row_factor + column_factor) % WORDS, row_factor % 2**31 >> 16, column_factor % 2**31 >> 16


def as_signed(word):
    return (word + 2**31) % WORDS - 2**31


def scattered_words(n, seed=0):
    return np.random.default_rng(seed).integers(-(2**31), 2**31, n).astype(np.int32)


def test_mix_can_be_undone():
    words = [*range(2000), *(1 << bit for bit in range(32)), *(WORDS - 1 - (1 << bit) for bit in range(32))]
    words += [int(word) % WORDS for word in scattered_words(2000)]
    mixed = mix(torch.tensor([as_signed(word) for word in words], dtype=torch.int32)).tolist()
    assert [unmix_by_hand(word % WORDS) for word in mixed] == words


def test_mix_is_injective_on_consecutive_and_on_scattered_words():
    consecutive = torch.arange(1 << 18, dtype=torch.int32)
    for words in (consecutive, consecutive - (1 << 17), consecutive << 14, mix(consecutive)):
        mixed = mix(words)
        assert mixed.dtype == torch.int32
        assert mixed.unique().numel() == 1 << 18


@pytest.mark.parametrize("words", [scattered_words(1 << 14), np.arange(1 << 14, dtype=np.int32)], ids=["any", "small"])
def test_mix_flips_about_half_of_the_output_bits_for_each_input_bit(words):
    words = torch.from_numpy(words)
    for bit in range(31):  # the sign goes into no shift and flips itself alone
        flipped = mix(words) ^ mix(words ^ (1 << bit))
        share = torch.stack([(flipped >> out) & 1 for out in range(32)]).double().mean(dim=1)
        assert abs(share.mean() - 0.5) < 0.01
        assert (share - 0.5).abs().max() < 0.1


def test_no_two_words_that_are_mixed_differ_in_nothing_but_their_sign():
    # Of such a pair mix would make another: it shifts words without their signs.
    coordinates = coordinate_words(1 << 12) & (2**31 - 1)
    assert coordinates.unique().numel() == 1 << 12
    sites = [site_word(int32(seed), *which) for seed in SEEDS for which in itertools.product(range(40), range(20))]
    assert (torch.stack(sites) & (2**31 - 1)).unique().numel() == len(SEEDS) * 40 * 20
    for seed in SEEDS:
        rows = mix(site_word(int32(seed), 3, 0) + coordinate_words(1 << 12)) & (2**31 - 1)
        assert rows.unique().numel() == 1 << 12


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(9,), (1, 7), (5, 1), (5, 7), (2, 3, 4), (2, 1, 2, 3)], ids=str)
def test_the_hash_by_hand(seed, shape):
    for site, round_number in ((0, 0), (1, 0), (29, 0), (0, 1), (3, 1000)):
        drawn = draw(seed, site, shape, round_number)
        rows, columns = drawn.row_choices.broadcast_to(shape), drawn.column_choices.broadcast_to(shape)
        assert {drawn.hashes.dtype, drawn.row_choices.dtype, drawn.column_choices.dtype} == {torch.int32}
        for unit in np.ndindex(shape):
            hashed, row, column = unit_by_hand(site_by_hand(seed, site, round_number), unit)
            assert drawn.hashes[unit] == as_signed(hashed)
            assert (rows[unit], columns[unit]) == (row, column)


shapes_and_more = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**31 - 1), st.integers(0, 200), shapes_and_more)
def test_longer_shapes_extend_shorter_ones(seed, site, sizes):
    shape, index = [size for size, _ in sizes], tuple(slice(size) for size, _ in sizes)
    short, long = draw(seed, site, shape), draw(seed, site, [size + more for size, more in sizes])
    assert torch.equal(long.hashes[index], short.hashes)
    cut = long.crop(shape)
    for name in ("hashes", "row_choices", "column_choices"):
        assert torch.equal(getattr(cut, name), getattr(short, name))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**31 - 1), shapes_and_more, st.sampled_from(KINDS), st.integers(2, 40), st.data(),
    st.sampled_from(RATES),
)  # fmt: skip
def test_masks_of_longer_shapes_extend_those_of_shorter_ones(seed, sizes, masks, passes, data, p):
    mc_pass = data.draw(st.integers(DROPOUT_OFF, 3 * passes))
    short, long = (
        drops(p, passes, mc_pass, seed=seed, shape=shape, masks=masks)
        for shape in (tuple(size for size, _ in sizes), tuple(size + more for size, more in sizes))
    )
    np.testing.assert_array_equal(long[tuple(slice(size) for size, _ in sizes)], short)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(1 << 16,), (256, 256), (4, 128, 128), (1, 1 << 16)], ids=str)
def test_hashes_are_uniform_over_all_words(seed, shape):
    hashes = draw(seed, 2, shape).hashes
    assert hashes.dtype == torch.int32
    assert hashes.min() < -0.999 * 2**31 and hashes.max() > 0.999 * 2**31
    assert scipy.stats.kstest(hashes.double().numpy().ravel() / WORDS + 0.5, "uniform").pvalue > 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_no_two_sites_share_a_row_of_units(seed):
    sites = [*range(24), *(site + (drawn << 16) for site in range(3) for drawn in range(1, 4))]
    rows = torch.cat([draw(seed, site, (24, 16)).hashes for site in sites])
    assert rows.unique(dim=0).shape[0] == len(rows)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_two_rounds_share_a_row_of_units(seed):
    drawn = [draw(seed, site, (24, 16), round_number) for site in range(8) for round_number in (*range(8), 10**6)]
    rows = torch.cat([of_site.hashes for of_site in drawn])
    assert rows.unique(dim=0).shape[0] == len(rows)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_two_heads_share_a_row_of_units(seed):
    rows = torch.cat([draw(seed, site, (4, 12, 12)).hashes.reshape(48, 12) for site in range(12)])
    assert rows.unique(dim=0).shape[0] == len(rows)


@pytest.mark.parametrize("seed", [0, 1, 42])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("lag", [1, 2])
def test_neighbouring_units_are_uncorrelated(seed, axis, lag):
    u = uniform(seed, 3, (256, 256))
    ahead, behind = np.take(u, range(lag, 256), axis), np.take(u, range(256 - lag), axis)
    r = np.corrcoef(ahead.ravel(), behind.ravel())[0, 1]
    assert abs(r) < FIVE_SIGMA / math.sqrt(ahead.size)


@pytest.mark.parametrize(
    "pair",
    [((0, 1), (0, 2)), ((0, 0), (0, 1)), ((0, 3), (1, 3)), ((0, 3), (2**30, 3)), ((1, 0), (0, 1)), ((5, 2), (6, 1))],
)
def test_sites_and_seeds_are_uncorrelated(pair):
    first, second = (uniform(seed, site, (128, 256)) for seed, site in pair)
    r = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    assert abs(r) < FIVE_SIGMA / math.sqrt(first.size)


# --- pairs of units at every distance


def correlations(first, second):
    """Of two standardised arrays, for every circular shift of one against the other, in standard errors."""
    found = np.fft.ifftn(np.fft.fftn(first) * np.fft.fftn(second).conj()).real
    return found / math.sqrt(first.size)


def standardised_hashes(seed, site, shape=(64, 64), round_number=0):
    return (uniform(seed, site, shape, round_number) - 0.5) * math.sqrt(12)


PAIRS_OF_SEEDS = {
    "one-bit": [(0, 1 << bit) for bit in range(31)],
    "one-bit-elsewhere": [(123_456_789, 123_456_789 ^ (1 << bit)) for bit in range(31)],
    "neighbours": [(seed, seed + 1) for seed in (0, 1, 2, 3, 41, 42, 2**30 - 1, 2**31 - 2)],
    "complements": [(seed, 2**31 - 1 - seed) for seed in (0, 1, 7, 123_456_789)],
    "one-bit-and-the-next": [(1, 2**30), (2**30 + 1, 2**31 - 1), (2**29, 2**30)],
}


@pytest.mark.parametrize("pairs", PAIRS_OF_SEEDS.values(), ids=PAIRS_OF_SEEDS.keys())
def test_seeds_are_uncorrelated_at_every_shift(pairs):
    for seed, other in pairs:
        for site, other_site in ((0, 0), (0, 1)):
            first, second = standardised_hashes(seed, site), standardised_hashes(other, other_site)
            assert np.abs(correlations(first, second)).max() < SIX_SIGMA


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(64, 64), (4, 32, 32)], ids=str)
def test_sites_are_uncorrelated_at_every_shift(seed, shape):
    hashes = [standardised_hashes(seed, site, shape) for site in range(8)]
    for first, second in itertools.combinations(hashes, 2):
        assert np.abs(correlations(first, second)).max() < SIX_SIGMA


@pytest.mark.parametrize("masks", KINDS)
@pytest.mark.parametrize("p", RATES)
def test_units_of_one_pass_are_uncorrelated_at_every_distance(masks, p):
    for seed, shape in itertools.product(SEEDS, [(4096,), (1, 4096), (64, 64), (4, 32, 32)]):
        fallen = standardised(drops(p, 16, 5, seed=seed, shape=shape, masks=masks), p)
        found = correlations(fallen, fallen).ravel()
        assert np.abs(found[1:]).max() < SEVEN_SIGMA


@pytest.mark.parametrize("seed", SEEDS)
def test_rounds_are_uncorrelated_at_every_shift(seed):
    rounds = [(seed, site, round_number) for round_number in range(5) for site in (0, 1)]
    hashes = [standardised_hashes(of, site, round_number=at) for of, site, at in [*rounds, (seed ^ 1, 0, 1)]]
    for first, second in itertools.combinations(hashes, 2):
        assert np.abs(correlations(first, second)).max() < SIX_SIGMA


@pytest.mark.parametrize("masks", KINDS)
def test_different_units_in_different_passes_are_uncorrelated(masks):
    p = 0.25
    for seed in SEEDS:
        found = [standardised(one, p) for one in drops_of_all(p, 8, seed=seed, shape=(64, 64), masks=masks)]
        for first, second in itertools.combinations(found, 2):
            assert np.abs(correlations(first, second).ravel()[1:]).max() < SIX_SIGMA


@pytest.mark.parametrize("masks", KINDS)
@pytest.mark.parametrize("p", RATES)
def test_sites_of_one_pass_are_uncorrelated_at_every_shift(masks, p):
    found = [standardised(drops(p, 16, 7, seed=3, site=site, shape=(64, 64), masks=masks), p) for site in range(8)]
    for first, second in itertools.combinations(found, 2):
        assert np.abs(correlations(first, second)).max() < SEVEN_SIGMA


def neighbours(fallen, direction):
    """Disjoint pairs of units."""
    even, odd = slice(0, None, 2), slice(1, None, 2)
    if direction == "row":
        return fallen[:, even], fallen[:, odd]
    if direction == "column":
        return fallen[even], fallen[odd]
    if direction == "diagonal":
        return fallen[even, even], fallen[odd, odd]
    upper = np.triu_indices(len(fallen), 1)
    return fallen[upper], fallen.T[upper]


@pytest.mark.parametrize("p", [0.1, 0.3])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("direction", ["row", "column", "diagonal", "symmetric"])
def test_pairs_of_neighbours_fall_as_independent_coins_do(seed, direction, p):
    first, second = neighbours(drops(p, 16, 5, seed=seed, shape=(256, 256)), direction)
    counts = [((first == a) & (second == b)).sum() for a, b in itertools.product([True, False], repeat=2)]
    expected = [first.size * chance for chance in (p * p, p * (1 - p), (1 - p) * p, (1 - p) ** 2)]
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-5


# --- groups of units, over many seeds


@pytest.fixture(scope="module", params=["(8, 8)", "(8, 8) independent", "(2, 4, 8)", "(64,)"])
def coins(request):
    """±1 for each of 64 units under each of 1500 seeds, from one pass that drops half; and the shape."""
    shape, masks = {
        "(8, 8)": ((8, 8), "systematic"),
        "(8, 8) independent": ((8, 8), "independent"),
        "(2, 4, 8)": ((2, 4, 8), "systematic"),
        "(64,)": ((64,), "systematic"),
    }[request.param]
    fallen = [drops(0.5, 16, 3, seed=seed, site=seed % 5, shape=shape, masks=masks).ravel() for seed in range(1500)]
    return 2.0 * np.array(fallen, dtype=np.float32) - 1.0


def assert_fair(sums, n_coins):
    """That products of coins, summed over many throws, are as those of fair and independent coins.

    All such products are uncorrelated, and so are their squares.
    """
    z = sums.ravel().astype(np.float64) / math.sqrt(n_coins)
    assert np.abs(z).max() < SIX_SIGMA
    assert abs(z.mean()) < FIVE_SIGMA / math.sqrt(z.size)
    assert abs(np.square(z).mean() - 1) < FIVE_SIGMA * math.sqrt(2 / z.size)


def test_every_unit_falls_as_often_as_not(coins):
    assert_fair(coins.sum(axis=0), len(coins))


def test_every_two_three_and_four_units_fall_independently(coins):
    pairs = np.array(list(itertools.combinations(range(64), 2)))
    of_pairs = coins[:, pairs[:, 0]] * coins[:, pairs[:, 1]]
    assert_fair(of_pairs.sum(axis=0), len(coins))
    later = pairs[:, 1, None] < np.arange(64)
    assert_fair((of_pairs.T @ coins)[later], len(coins))
    later = pairs[:, 1, None] < pairs[:, 0]
    assert_fair((of_pairs.T @ of_pairs)[later], len(coins))


def test_every_unit_falls_at_its_rate_over_seeds():
    fallen = [[drops(p, 16, 9, seed=seed, site=3, shape=(16, 64)) for p in RATES] for seed in range(600)]
    for p, of_seeds in zip(RATES, zip(*fallen, strict=True), strict=True):
        z = standardised(np.stack(of_seeds), p).sum(axis=0) / math.sqrt(600)
        assert np.abs(z).max() < SIX_SIGMA
        assert 1e-6 < scipy.stats.chi2.cdf(np.square(z).sum(), z.size) < 1 - 1e-6


def test_seeds_in_a_row_drop_a_unit_independently():
    fallen = [[drops(p, 16, 0, seed=seed, site=0, shape=(4, 16)) for p in RATES] for seed in range(1024)]
    for p, of_seeds in zip(RATES, zip(*fallen, strict=True), strict=True):
        z = standardised(np.stack(of_seeds), p)
        for lag in (1, 2, 3, 4, 8, 16, 64, 256):
            assert abs((z[lag:] * z[:-lag]).sum()) < FIVE_SIGMA * math.sqrt(z[lag:].size)


@pytest.fixture(scope="module", params=RATES)
def many_masks(request):
    """Standardised masks of 200 seeds, (200, 48, 48), and as many over heads of one row each, (200, 4 · 12, 48)."""
    p = request.param
    return [
        np.stack(
            [
                standardised(drops(p, 16, seed % 16, seed=seed, site=seed % 11, shape=shape), p).reshape(48, 48)
                for seed in range(200)
            ]
        )
        for shape in ((48, 48), (4, 12, 48))
    ]


def test_rectangles_of_four_units_fall_independently(many_masks):
    for masks in many_masks:
        squares = np.square(masks)
        gram, of_squares = (z @ z.transpose(0, 2, 1) for z in (masks, squares))
        rows = np.triu_indices(48, 1)
        # The sum over j < l of z_ij z_il z_kj z_kl is half of what the square of the sum over j holds besides squares.
        sums = (np.square(gram) - of_squares)[:, rows[0], rows[1]].sum(axis=1) / 2
        z = sums / math.comb(48, 2)
        assert abs(z.mean()) < FIVE_SIGMA / math.sqrt(len(z))
        assert 0.7 < z.std() < 1.3


def test_small_and_wide_rectangles_fall_independently(many_masks):
    for masks in many_masks:
        for down, right in itertools.product((1, 2, 4, 24), repeat=2):
            top, low = masks[:, :-down], masks[:, down:]
            corners = top[..., :-right] * top[..., right:] * low[..., :-right] * low[..., right:]
            assert abs(corners.sum()) < SIX_SIGMA * math.sqrt(corners.size)


def test_three_in_a_line_and_three_corners_fall_independently(many_masks):
    for masks in many_masks:
        lines = [
            masks[..., :-2] * masks[..., 1:-1] * masks[..., 2:],
            masks[:, :-2] * masks[:, 1:-1] * masks[:, 2:],
            masks[:, :-2, :-2] * masks[:, 1:-1, 1:-1] * masks[:, 2:, 2:],
            masks[:, :-1, :-1] * masks[:, :-1, 1:] * masks[:, 1:, :-1],
        ]
        for products in lines:
            assert abs(products.sum()) < FIVE_SIGMA * math.sqrt(products.size)


def test_units_and_their_mirror_images_fall_independently(many_masks):
    upper = np.triu_indices(48, 1)
    for masks in many_masks:
        pairs = masks[:, *upper] * masks.transpose(0, 2, 1)[:, *upper]
        assert abs(pairs.sum()) < FIVE_SIGMA * math.sqrt(pairs.size)
        # A row's sum with its column's, which only mirror images of one another could tie together.
        crosses = masks.sum(axis=2) * masks.sum(axis=1) - np.square(masks.diagonal(axis1=1, axis2=2))
        assert abs(crosses.sum()) < FIVE_SIGMA * math.sqrt(crosses.size) * 48


def test_the_diagonal_is_as_any_other_units(many_masks):
    for masks in many_masks:
        diagonal = masks.diagonal(axis1=1, axis2=2)
        assert abs(diagonal.sum()) < FIVE_SIGMA * math.sqrt(diagonal.size)
        for lag in (1, 2, 7):
            pairs = diagonal[:, lag:] * diagonal[:, :-lag]
            assert abs(pairs.sum()) < FIVE_SIGMA * math.sqrt(pairs.size)


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("masks", KINDS)
def test_singular_values_are_those_of_independent_entries(masks, p):
    # Hashes made of rows and columns could leave a mask that is nearly of low rank; the law is Marchenko and Pastur's.
    n = 128
    found = [
        np.linalg.svd(standardised(drops(p, 16, 4, seed=seed, shape=(n, n), masks=masks), p), compute_uv=False)
        for seed in range(8)
    ]
    values = np.concatenate(found) / math.sqrt(n)
    assert values.max() < 2.2
    values = np.sort(values).clip(max=2)
    law = (values * np.sqrt(4 - values**2) / 2 + 2 * np.arcsin(values / 2)) / math.pi
    assert np.abs(law - (np.arange(len(values)) + 0.5) / len(values)).max() < 0.022


# --- single passes


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("masks", KINDS)
@pytest.mark.parametrize("shape", [(768,), (1, 768), (24, 32), (4, 12, 16)], ids=str)
def test_each_pass_drops_its_share_of_units(masks, p, shape):
    n = math.prod(shape)
    z = np.array(
        [
            standardised(drops(p, 16, (seed + site) % 16, seed=seed, site=site, shape=shape, masks=masks), p).sum()
            for seed in (*SEEDS, *range(100, 112))
            for site in range(8)
        ]
    ) / math.sqrt(n)
    assert np.abs(z).max() < FIVE_SIGMA
    assert 1e-6 < scipy.stats.chi2.cdf(np.square(z).sum(), z.size) < 1 - 1e-6


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("masks", KINDS)
def test_every_pass_drops_its_share_of_units(masks, p):
    fallen = drops_of_all(p, 16, seed=3, shape=(40, 50), masks=masks).reshape(16, -1)
    n = fallen.shape[1]
    assert (np.abs(fallen.sum(axis=1) - n * p) < FIVE_SIGMA * math.sqrt(n * p * (1 - p))).all()
    assert fallen.any(axis=1).all()


@pytest.mark.parametrize("passes", [1, 2, 7, 10, 16, 100])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_systematic_masks_by_hand(passes, p):
    seed, site, shape = 9, 2, (2, 4, 5)
    edge = passes**2 / WORDS  # a shift of K-th parts is rounded to whole words, a stride of up to K times
    for mc_pass in sorted({0, 1, passes // 2, passes - 1, 3 * passes + 1}):
        fallen = drops(p, passes, mc_pass, seed=seed, site=site, shape=shape)
        for unit in np.ndindex(shape):
            hashed, row, column = unit_by_hand(site_by_hand(seed, site, mc_pass // passes), unit)
            of_row, of_column = (coprimes(passes)[n * len(coprimes(passes)) // 2**15] for n in (row, column))
            shift = Fraction(of_row * of_column * mc_pass % passes, passes)
            moved = float((Fraction((hashed + 2**31) % WORDS, WORDS) + shift) % 1)
            assert min(abs(moved - p), moved, 1 - moved) > edge
            assert fallen[unit] == (moved < p)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_independent_masks_by_hand(p):
    for mc_pass in (0, 1, 15, 1000):
        fallen = drops(p, 16, mc_pass, seed=9, site=2, shape=(2, 4, 5), masks="independent")
        for unit in np.ndindex(2, 4, 5):
            hashed, _, _ = unit_by_hand(site_by_hand(9, 2, mc_pass), unit)
            assert fallen[unit] == ((hashed + 2**31) % WORDS / WORDS < p)


def whole_mask(p, masks="systematic", mc_pass=3):
    return mask_of(p, 16, mc_pass, masks=masks, shape=(20, 30))


EXTREMES = UnitHashes(int32([-(2**31), -1, 0, 2**31 - 1]), int32([0]), int32([0, 1, 2**14, 2**15 - 1]))


@pytest.mark.parametrize("p", [0.0, 1e-12, *RATES, 0.9, 0.999])
def test_what_stays_is_scaled(p):
    found = whole_mask(p)
    assert found.dtype == torch.float32
    assert set(found.unique().tolist()) <= {0.0, float(np.float32(1 / (1 - p)))}
    if p < 1e-9:
        assert torch.equal(found, torch.ones(20, 30))


@pytest.mark.parametrize("p", [0.0, 1e-12, *RATES, 0.9, 1.0])
@pytest.mark.parametrize("masks", KINDS)
def test_without_dropout_everything_stays_as_it_is(masks, p):
    assert torch.equal(whole_mask(p, mc_pass=DROPOUT_OFF, masks=masks), torch.ones(20, 30))
    assert torch.equal(DropoutPass(DROPOUT_OFF, 16, masks).mask(EXTREMES, p), torch.ones(4))


@pytest.mark.parametrize("p", [1.0, 1.5])
@pytest.mark.parametrize("masks", KINDS)
def test_a_dropout_of_one_leaves_nothing(masks, p):
    assert torch.equal(whole_mask(p, masks=masks), torch.zeros(20, 30))
    assert torch.equal(DropoutPass(3, 16, masks).mask(EXTREMES, p), torch.zeros(4))


@pytest.mark.parametrize("masks", KINDS)
def test_masks_neither_read_nor_move_torchs_generator(masks):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(whole_mask(0.5, masks=masks))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*found)


@pytest.mark.parametrize("masks", KINDS)
def test_the_order_of_asking_changes_nothing(masks):
    asked = list(itertools.product(range(12), range(4), [(6, 7), (2, 6, 7), (9,)]))
    passes = [DropoutPass(mc_pass, 8, masks) for mc_pass in range(12)]

    def mask(mc_pass, site, shape):
        return passes[mc_pass].mask(draw(5, site, shape, passes[mc_pass].round_number), 0.3)

    in_order = {key: mask(*key) for key in asked}
    for key in random.Random(0).sample(asked, len(asked)):
        assert torch.equal(mask(*key), in_order[key])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here to compare the CPU with")
@pytest.mark.parametrize("masks", KINDS)
@pytest.mark.parametrize("passes", [7, 16, 100])
def test_a_cuda_device_makes_the_masks_of_the_cpu(masks, passes):
    for mc_pass, seed in itertools.product([DROPOUT_OFF, 0, 1, passes - 1, passes + 2], SEEDS):
        found = []
        for device in ("cpu", "cuda"):
            one = DropoutPass(mc_pass, passes, masks)
            word = site_word(int32(seed).to(device), 1, one.round_number)
            found.append(one.mask(unit_hashes(word, (4, 64, 96)), 0.1).cpu())
        assert torch.equal(*found)


# --- all passes


@pytest.mark.parametrize("passes", [*BALANCED, 100])
def test_strides_and_their_products_visit_every_pass(passes):
    assert strides(passes) == coprimes(passes)
    for row, column in itertools.product(strides(passes), repeat=2):
        assert {row * column * mc_pass % passes for mc_pass in range(passes)} == set(range(passes))


@pytest.mark.parametrize("passes", [3, 5, 7, 10, 16, 32, 100])
def test_units_choose_all_strides_alike(passes):
    drawn = draw(1, 1, (4000, 4000 // 4))
    for choices in (drawn.row_choices, drawn.column_choices):
        chosen = np.bincount(choices.ravel().numpy() * len(coprimes(passes)) // 2**15, minlength=len(coprimes(passes)))
        assert len(chosen) == len(coprimes(passes))
        assert scipy.stats.chisquare(chosen).pvalue > 1e-5


RATES_AND_PASSES = [*itertools.product([*RATES, 0.3, 0.9], BALANCED), (0.125, 100), (0.333, 100)]


@pytest.mark.parametrize(("p", "passes"), RATES_AND_PASSES)
@pytest.mark.parametrize("round_number", [0, 5])
def test_systematic_masks_drop_every_unit_its_fair_share_of_times(p, passes, round_number):
    times = drops_of_all(p, passes, round_number=round_number, seed=3, shape=(40, 50)).sum(axis=0)
    assert set(np.unique(times)) <= fair_share(p, passes)
    share = p * passes - math.floor(p * passes + 1e-9)
    assert abs((times - p * passes).mean()) < FIVE_SIGMA * math.sqrt(max(share * (1 - share), 1e-9) / times.size) + 1e-6


def hashes_at_edges(p, passes):
    """The words around which one of the passes begins or ends to drop a unit."""
    edges = [round(WORDS * ((edge - Fraction(k, passes)) % 1)) for edge in (0, Fraction(p)) for k in range(passes)]
    return int32([as_signed(edge + near + 2**31) for edge in edges for near in (-2, -1, 0, 1, 2)])


def times_at_edges(p, passes):
    """In how many passes the units fall that are nearest to an edge, for every stride of row and column."""
    n = len(coprimes(passes))
    chosen = int32([-(-k * 2**15 // n) for k in range(n)])
    drawn = UnitHashes(hashes_at_edges(p, passes), chosen[:, None, None], chosen[:, None])
    times = torch.zeros(n, n, len(drawn.hashes), dtype=torch.uint8)
    for mc_pass in range(passes):
        times += DropoutPass(mc_pass, passes, "systematic").mask(drawn, p) == 0
    return times


def is_rounded(p, passes):
    """Whether edges of two passes should fall on one word but may be words apart.

    A unit then enters one pass's drops as it leaves another's, and K-th parts of 2**32 are no whole words.
    """
    return (Fraction(str(p)) * passes).denominator == 1 and WORDS % passes > 0


@pytest.mark.parametrize(("p", "passes"), RATES_AND_PASSES)
def test_rounding_leaves_fair_shares_at_every_edge(p, passes):
    found = set(times_at_edges(p, passes).unique().tolist())
    fair = fair_share(p, passes)
    if is_rounded(p, passes):
        assert found <= {times + off for times in fair for off in (-1, 0, 1)}
    else:
        assert found <= fair


@pytest.mark.parametrize(
    ("p", "passes"), [(0.5, 6), (0.1, 10), (0.5, 14), (0.25, 12), *((p, 100) for p in (*RATES, 0.3, 0.9))]
)
def test_rounding_costs_few_units_their_fair_share(p, passes):
    # Shares of the words within K² words of one of 2 K edges bound what rounding can reach.
    (fair,) = fair_share(p, passes)
    times = drops_of_all(p, passes, seed=0, site=0, shape=(150, 200)).sum(axis=0)
    assert np.abs(times - fair).max() <= 1
    assert (times != fair).mean() <= 2 * passes**3 / WORDS


def test_independent_masks_are_binomial_over_the_passes():
    times = drops_of_all(0.1, 16, seed=3, shape=(40, 50), masks="independent").sum(axis=0).ravel()
    expected = scipy.stats.binom.pmf(range(5), 16, 0.1)
    counts = [*((times == k).sum() for k in range(5)), (times >= 5).sum()]
    assert scipy.stats.chisquare(counts, [*expected * times.size, (1 - expected.sum()) * times.size]).pvalue > 1e-5


@pytest.mark.parametrize("p", RATES)
def test_independent_passes_are_uncorrelated(p):
    found = standardised(drops_of_all(p, 24, seed=8, shape=(100, 100), masks="independent").reshape(24, -1), p)
    z = (found @ found.T)[np.triu_indices(24, 1)] / math.sqrt(found.shape[1])
    assert np.abs(z).max() < FIVE_SIGMA
    assert 1e-6 < scipy.stats.chi2.cdf(np.square(z).sum(), z.size) < 1 - 1e-6


@pytest.mark.parametrize("p", RATES)
def test_passes_of_different_rounds_are_uncorrelated(p):
    rounds = [
        standardised(drops_of_all(p, 8, round_number=number, seed=8, shape=(100, 100)).reshape(8, -1), p)
        for number in range(4)
    ]
    for first, second in itertools.combinations(rounds, 2):
        z = first @ second.T / math.sqrt(first.shape[1])
        assert np.abs(z).max() < FIVE_SIGMA


@pytest.mark.parametrize("masks", KINDS)
def test_rounds(masks):
    length = {"systematic": 5, "independent": 1}[masks]
    assert [DropoutPass(k, 5, masks).round_number for k in range(12)] == [k // length for k in range(12)]


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("passes", [7, 10, 16])
@pytest.mark.parametrize("shape", [(30_000,), (30_000, 1)], ids=["columns", "rows"])
def test_a_unit_falls_in_two_systematic_passes_as_often_as_its_strides_say(p, passes, shape):
    fallen = drops_of_all(p, passes, seed=4, shape=shape).reshape(passes, -1)
    n = fallen.shape[1]

    def chance(lag):
        apart = [stride * lag % passes / passes for stride in coprimes(passes)]
        return np.mean([max(0.0, p - d) + max(0.0, p - (1 - d)) for d in apart])

    for first, second in itertools.combinations(range(passes), 2):
        expected = chance(second - first)
        error = math.sqrt(expected * (1 - expected) / n) + 1e-6
        assert abs((fallen[first] & fallen[second]).mean() - expected) < FIVE_SIGMA * error


@pytest.mark.parametrize("masks", KINDS)
def test_pairs_of_units_fall_together_more_evenly_with_more_passes(masks):
    # Balancing single units must not tie pairs together: averages of nonlinear models would stop converging in K.
    # A seed alone says little: the columns of a mask have few strides, and rows share them.
    p, passes = 0.1, 128
    found = np.stack([drops_of_all(p, passes, seed=seed, shape=(40, 50), masks=masks) for seed in range(24)])
    together = (found[..., ::2] & found[..., 1::2]).mean(axis=1)
    of_independent_passes = math.sqrt(p**2 * (1 - p**2) / passes)
    assert np.sqrt(np.square(together - p**2).mean()) < 1.15 * of_independent_passes


@functools.cache
def pairs_of_units(kind):
    """Two equally shaped :class:`UnitHashes`; no unit is in two pairs."""
    even, odd = slice(0, None, 2), slice(1, None, 2)
    if kind == "row":
        drawn = draw(6, 0, (20_000,))
        return tuple(UnitHashes(drawn.hashes[at], drawn.row_choices, drawn.column_choices[at]) for at in (even, odd))
    if kind == "column":
        drawn = draw(6, 0, (20_000, 1))
        return tuple(UnitHashes(drawn.hashes[at], drawn.row_choices[at], drawn.column_choices) for at in (even, odd))
    if kind == "sites":
        return draw(6, 0, (10_000,)), draw(6, 1, (10_000,))
    diagonals = [
        (drawn.hashes.diagonal(), drawn.row_choices[:, 0], drawn.column_choices)
        for drawn in (draw(seed, 0, (1000, 1000)) for seed in range(8))
    ]
    joined = [torch.cat(parts) for parts in zip(*diagonals, strict=True)]
    return tuple(UnitHashes(*(part[at] for part in joined)) for at in (even, odd))


@functools.cache
def together_with_random_strides(p, passes, n):
    """In how many passes two units fall both, when each has a phase and a stride of its own."""
    rng = np.random.default_rng(0)
    phases, chosen = rng.random((2, n)), rng.choice(coprimes(passes), (2, n))
    both = [((phases + chosen * mc_pass % passes / passes) % 1 < p).all(axis=0) for mc_pass in range(passes)]
    return np.sum(both, axis=0)


@pytest.mark.parametrize(("p", "passes"), [(0.25, 4), (0.25, 7), (0.1, 10), (0.1, 16), (0.5, 16), (0.1, 32), (0.1, 64)])
@pytest.mark.parametrize("kind", ["row", "column", "diagonal", "sites"])
def test_pairs_of_units_fall_together_as_those_with_random_strides(kind, p, passes):
    pair = pairs_of_units(kind)
    together = 0
    for mc_pass in range(passes):
        one = DropoutPass(mc_pass, passes, "systematic")
        first, second = (one.mask(drawn, p).numpy().ravel() == 0 for drawn in pair)
        together = together + (first & second)
    reference = together_with_random_strides(p, passes, 50_000)
    assert abs(together.mean() - passes * p * p) < FIVE_SIGMA * reference.std() / math.sqrt(together.size)
    table = np.stack([np.bincount(times, minlength=passes + 1) for times in (together, reference)])
    seldom = table.sum(axis=0) < 50
    table = np.column_stack([table[:, ~seldom], table[:, seldom].sum(axis=1)])
    table = table[:, table.sum(axis=0) >= 20]
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-5


@pytest.mark.parametrize("masks", KINDS)
def test_no_two_passes_are_alike(masks):
    found = [drops(0.1, 16, mc_pass, seed=3, shape=(40, 50), masks=masks) for mc_pass in range(64)]
    assert len({mask.tobytes() for mask in found}) == 64
