"""A score beyond a fence moves no other module, and those between the fences follow the paper's formula.

The exact claim, for every vector of finite float32 scores and every module that ``linear`` finds beyond a fence: the
ratios of all other modules are, bit for bit, those that ``linear`` gives to the vector without that module. And for
every module that is not beyond one: its ratio is the paper's formula (eq. 3), with the lowest and the highest score of
these modules for ``alpha_min`` and ``alpha_max``.
"""
# SPDX-License-Identifier: Apache-2.0

import functools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_alphadecay as oad

LO, HI = 2 / 3, 3.0
ORDINARY = [2.05, 2.1, 2.15, 2.2, 2.9, 3.0, 3.1]


@functools.cache
def compiled(fence: float | None = 2.0) -> tuple[Any, Any]:
    assign: Any = oad.linear(fence=fence)
    return jax.jit(assign), jax.jit(assign.fenced)


def vector(scores: Any) -> np.ndarray:
    return np.array(scores, np.float32)


def shares(scores: np.ndarray, fence: float | None = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Ratios, and which modules are fenced. Padded with refused modules, so that few sizes are compiled."""
    assign, fenced = compiled(fence)
    padded = np.full(-(-len(scores) // 12) * 12, np.nan, np.float32)
    padded[: len(scores)] = scores
    return np.asarray(assign(padded))[: len(scores)], np.asarray(fenced(padded))[: len(scores)]


def kept_by_definition(scores: np.ndarray, fence: float) -> np.ndarray:
    """The definition, word by word, on lists."""
    ordered = sorted(scores.tolist(), key=lambda score: (abs(score), score))
    n, ends = len(ordered), []
    for k in range(1, n + 1):
        low, high = np.float32(min(ordered[:k])), np.float32(max(ordered[:k]))
        reach = max(np.float32(fence) * (high - low), np.float32(1.2) * max(-low, high))
        is_tied = k < n and abs(ordered[k]) == abs(ordered[k - 1])
        if not is_tied and all(max(np.float32(later) - high, low - np.float32(later)) > reach for later in ordered[k:]):
            ends.append(k)
    kept = ends[0]
    while more := [
        end for start, end in zip([0, *ends], ends, strict=False) if end > kept and 2 * (end - start) > kept
    ]:
        kept = more[0]
    inside = ordered if 3 * (n - kept) > n else ordered[:kept]
    return np.array([score in inside for score in scores.tolist()])


def check_claim(scores: np.ndarray) -> int:
    ratios, fenced = shares(scores)
    np.testing.assert_array_equal(fenced, ~kept_by_definition(scores, 2.0))
    kept = scores[~fenced].astype(np.float64)
    low, high = kept.min(), kept.max()
    formula = (kept - low) / (high - low) * (HI - LO) + LO if high > low else np.ones_like(kept)
    np.testing.assert_allclose(ratios[~fenced], formula, rtol=2e-4)
    ends = np.where(scores[fenced] > high, HI, LO)
    np.testing.assert_allclose(ratios[fenced], ends, rtol=1e-6)
    for module in np.flatnonzero(fenced):
        without, _ = shares(np.delete(scores, module))
        np.testing.assert_array_equal(np.delete(ratios, module), without)
    return int(fenced.sum())


# Clusters of several sizes, decades apart or together, of both signs, with ties.
clusters = st.tuples(
    st.integers(1, 8),
    st.floats(-1.0, 6.0),
    st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    st.sampled_from([1.0, 1.0, 1.0, -1.0]),
)


@hypothesis.settings(max_examples=150)
@hypothesis.given(st.lists(clusters, min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_claim_on_invented_scores(parts: list[tuple[int, float, float, float]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.concatenate(
        [sign * 10**decade * (1 + spread * rng.uniform(size=n)) for n, decade, spread, sign in parts]
    )
    check_claim(np.unique(scores.astype(np.float32)) if seed % 2 else scores.astype(np.float32))


@hypothesis.settings(max_examples=100)
@hypothesis.given(st.lists(st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False), min_size=1, max_size=12))
def test_claim_on_any_scores(scores: list[float]) -> None:
    check_claim(np.array(scores, np.float32))


@hypothesis.settings(max_examples=100)
@hypothesis.given(st.lists(st.sampled_from([-1, 1, -2, 2, -9, 9, -500, 500]), min_size=3, max_size=12))
def test_opposite_signs_keep_the_same_scores(scores: list[int]) -> None:
    """With many ties in magnitude, which no order of the scores may break."""
    (mirrored, beyond), (ratios, fenced) = shares(vector(scores)), shares(-vector(scores))
    np.testing.assert_array_equal(fenced, beyond)
    if len(set(scores)) > 1 and np.ptp(vector(scores)[~fenced]) > 0:
        np.testing.assert_allclose(ratios, LO + HI - mirrored, rtol=1e-5)


def test_some_of_the_invented_scores_are_fenced() -> None:
    """The claim would hold of assignments that fence nothing."""
    rng = np.random.default_rng(0)
    vectors = [vector(np.append(rng.uniform(1.5, 4.0, 9), rng.uniform(4, 30, 2))) for _ in range(20)]
    assert 10 <= sum(map(check_claim, vectors)) <= 40


seeds = st.integers(0, 2**32 - 1)


@hypothesis.settings(max_examples=25)
@hypothesis.given(seeds, st.floats(0.0, 0.2), st.integers(0, 7))
def test_claim_on_invented_spectra(seed: int, flatness: float, at: int) -> None:
    """Eight spectra, one of them drawn flatter and flatter, as that of an orthogonal matrix with some noise."""
    rng = np.random.default_rng(seed)
    tails = rng.uniform(0.8, 2.5, (8, 1))
    eigenvalues = np.sort((1 + rng.pareto(tails, (8, 64))).astype(np.float32), axis=1)
    eigenvalues[at] = np.sort(1 + flatness * rng.uniform(size=64))
    alphas = np.asarray(oad.median()(jnp.asarray(eigenvalues)))
    good = np.isfinite(alphas)
    assert good[np.arange(8) != at].all()
    check_claim(alphas[good])


@pytest.mark.parametrize(
    ("scores", "beyond"),
    [
        ([501, 2.2, 3.5], [0]),  # an orthogonal matrix in bfloat16
        ([*ORDINARY, 76], [7]),  # an identity after a small step
        ([*ORDINARY, 76, 760], [7, 8]),
        ([*ORDINARY, 760, 761, 800], [7, 8, 9]),
        ([*ORDINARY, 8.0], [7]),  # a Gaussian factor of LoRA, 64 x 2048
        ([*ORDINARY, 12.8], [7]),  # a Gaussian kernel of 50 x 5000
        ([*ORDINARY, 8.0, 12.8, 501], [7, 8, 9]),
        ([-score for score in (*ORDINARY, 12.8)], [7]),
        # Of two that are equally far from 0, neither is beyond the other.
        ([-1, -1, -1, 1], []),
        ([1, 1, 1, -1], []),
        ([-1, -1, -1, 1, 501], [4]),
        # What is normal stays: attention and MLPs, with and without ties, and few of either kind.
        ([2.12] * 4 + [3.0] * 3, []),
        ([2.12] * 12 + [3.0], []),
        ([3.45] * 12 + [2.12], []),
        ([2.11, 2.12, 2.13, 2.14, 3.45], []),
        ([2.12, 2.12, 4.47], []),
        # At twice the span, or a third of all, and no further.
        ([-1, 1, -1, 1, 5], []),
        ([-1, 1, -1, 1, -5], []),
        ([-1, 1, -1, 1, 5.5], [4]),
        ([-1, 1, -1, 1, -5.5], [4]),
        ([2, 2, 2.5, 2.5, 501, 501], [4, 5]),
        ([2, 2, 2.5, 501, 501], []),
        ([2, 2, 2.5, 501, 5e5], []),
        ([2, 2, 2.5, 2.5, 2.25, 501, 5e5], [5, 6]),
        # Nothing tells which of two is the ordinary one, nor a few from many.
        ([2.0, 501], []),
        ([2.0, 2.0, 501, 501], []),
        ([2.0, 20, 200, 2000], []),
        ([2.0, 20, 200, 2000, 20000], []),
        ([2.0, 2.1, 2.2, 50, 2500], []),
        ([0.0, 0.0, 0.0], []),
        ([5.0], []),
        # A small one is no outlier among positive scores, but does not hide one either.
        ([0.01, *ORDINARY], []),
        ([0.01, *ORDINARY, 50.0], [8]),
    ],
)
def test_examples(scores: list[float], beyond: list[int]) -> None:
    check_claim(vector(scores))
    assert np.flatnonzero(shares(vector(scores))[1]).tolist() == beyond


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("exponent", [-30, -3, 30])
def test_scores_of_any_unit_are_fenced_alike(exponent: int, sign: int) -> None:
    """Powers of two are exact: below 1, too, and of both signs."""
    cases = ([*ORDINARY, 12.8], [7]), ([-1, 2, 1, -2, 1.5, 60, -90], [5, 6]), ([0.5, -0.5, 0.4, 9], [3])
    for scores, beyond in cases:
        scaled = sign * vector(scores) * np.float32(2.0**exponent)
        assert np.flatnonzero(shares(scaled)[1]).tolist() == beyond
        check_claim(scaled)


def test_refused_modules_count_for_nothing() -> None:
    scores = vector([np.nan, 501, 2.2, np.nan, 3.5, np.inf])
    ratios, fenced = shares(scores)
    np.testing.assert_array_equal(fenced, [False, True, False, False, False, False])
    np.testing.assert_allclose(ratios, [np.nan, HI, LO, np.nan, HI, ratios[5]], rtol=1e-6)
    _, fenced = shares(vector([np.nan] * 4))
    assert not fenced.any()


def test_without_a_fence_the_extremes_set_the_scale() -> None:
    ratios, fenced = shares(vector([501, 2.2, 3.5]), fence=None)
    np.testing.assert_allclose(ratios, [3, 2 / 3, 2 / 3 + 1.3 / 498.8 * 7 / 3], rtol=1e-4)
    assert not fenced.any()
