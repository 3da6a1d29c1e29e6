"""Noise: its law against the exact probabilities, the certified decisions against mpmath, and where the bits come from."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from slt_pate import noise
from slt_pate.noise import STEPS, discrete_gaussian, discrete_laplace, gaussian_votes, laplace_votes, rounded_gaussian
from sltcore.errors import PrivacyError

RARE = 1e-6
"""A true law fails a test of this level once in a million runs."""


def gaussian_log_mass(x: np.ndarray, sigma: float) -> np.ndarray:
    logs: np.ndarray = -np.square(x.astype(float)) / (2 * sigma**2)
    return logs


def laplace_log_mass(x: np.ndarray, scale: float) -> np.ndarray:
    logs: np.ndarray = -np.abs(x) / scale
    return logs


def fit_of(draws: np.ndarray, log_mass: Callable[[np.ndarray, float], np.ndarray], scale: float) -> float:
    """The p-value of chi-square against the law that is proportional to exp(log_mass), over some 200 cells of equally many
    integers, the tails one cell each."""
    width = max(1, int(scale / 20))
    reach = int(40 * scale) // width * width + 5 * width
    support = np.arange(-reach, reach + width)
    mass = np.exp(log_mass(support, scale)).reshape(-1, width).sum(axis=1)
    expected = mass / mass.sum() * len(draws)
    inner = np.flatnonzero(expected >= 5)
    cells = np.clip((draws + reach) // width, inner[0] - 1, inner[-1] + 1) - (inner[0] - 1)
    seen = np.bincount(cells, minlength=len(inner) + 2)
    awaited = np.concatenate([[expected[: inner[0]].sum()], expected[inner], [expected[inner[-1] + 1 :].sum()]])
    keep = awaited > 0.5
    return float(stats.chisquare(seen[keep], awaited[keep] * seen[keep].sum() / awaited[keep].sum()).pvalue)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [1.0, 1.5, 3.7, 20.0, 200.3])
def test_a_million_draws_follow_the_discrete_gaussian(sigma: float) -> None:
    draws = discrete_gaussian(sigma, 1_000_000)
    assert fit_of(draws, gaussian_log_mass, sigma) > RARE
    assert fit_of(draws, gaussian_log_mass, sigma * 1.02) < RARE  # the test would see two parts in a hundred


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1.3, 4.5, 20.0, 100.7])
def test_a_million_draws_follow_the_discrete_laplace(scale: float) -> None:
    draws = discrete_laplace(scale, 1_000_000)
    assert fit_of(draws, laplace_log_mass, scale) > RARE
    assert fit_of(draws, laplace_log_mass, scale * 1.02) < RARE


@pytest.mark.parametrize("votes", [0.003, 1.0, 40.0, 1000.0, 2.0**24])
def test_noise_in_votes_has_the_stated_scale_and_fills_the_grid(votes: float) -> None:
    # At these scales a step is so small that the law is the continuous one to 1e-6; a lattice would show in the last bits.
    for draws, law in (
        (gaussian_votes(votes, (200, 100)), stats.norm),
        (laplace_votes(votes, (200, 100)), stats.laplace),
    ):
        assert draws.shape == (200, 100)
        assert draws.dtype == np.int64
        assert stats.kstest(draws.ravel() / STEPS, law(scale=votes).cdf).pvalue > RARE
        assert stats.chisquare(np.bincount(draws.ravel() & 15, minlength=16)).pvalue > RARE


@pytest.mark.parametrize("size", [1, 2, 60_000, 199_999])
def test_rounded_gaussian_noise_is_the_rounded_law(size: int) -> None:
    draws = rounded_gaussian(5.0, size)
    assert draws.shape == (size,)
    assert draws.dtype == np.int64
    if size < 1000:
        return
    edges = np.arange(-20.5, 21)
    awaited = np.diff(stats.norm.cdf(np.concatenate([[-np.inf], edges, [np.inf]]) / 5.0)) * size
    seen = np.bincount(np.clip(draws, -21, 21) + 21, minlength=43)
    assert stats.chisquare(seen, awaited).pvalue > RARE
    pairs = min(noise.CHUNK, size) // 2
    first, second = draws[:pairs].astype(float), draws[pairs : 2 * pairs].astype(float)
    for power in (1, 2):  # the two values of a pair have one radius
        assert abs(np.corrcoef(first**power, second**power)[0, 1]) < 5 / math.sqrt(pairs)


@pytest.mark.parametrize("exact_share", ["all", "half"])
def test_the_exact_route_decides_as_the_float_route(exact_share: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = np.random.default_rng(7).bytes(1 << 20)

    def replay() -> Callable[[int], bytes]:
        place = 0

        def read(count: int) -> bytes:
            nonlocal place
            place += count
            return stream[place - count : place]

        return read

    found = []
    for trust in (noise.TRUST, 1e30 if exact_share == "all" else 0.3):
        with monkeypatch.context() as patch:
            patch.setattr(noise, "TRUST", trust)
            patch.setattr(os, "urandom", replay())
            found.append((discrete_gaussian(37.25 * STEPS, 400), discrete_laplace(2.7 * STEPS, 400)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@given(st.fractions(0, 60, max_denominator=2**60), st.sampled_from([64, 128, 320]))
def test_bounds_of_exp_hold_it_and_are_tight(gamma: Fraction, bits: int) -> None:
    low, high = noise._exp_bounds(gamma, bits)
    with mpmath.workprec(bits + 200):
        value = mpmath.exp(-mpmath.mpf(gamma.numerator) / gamma.denominator) * mpmath.mpf(2) ** bits
        assert low <= value <= high
    assert high - low <= 2


@pytest.mark.parametrize("sigma", [Fraction(1), Fraction(37), Fraction(40 * STEPS) + Fraction(1, 3), Fraction(2**44)])
def test_the_float_route_errs_by_less_than_it_is_trusted_with(sigma: Fraction, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, Fraction]] = []

    def watch(gamma: np.ndarray, exact: Callable[[int], Fraction], words: np.ndarray) -> np.ndarray:
        seen.extend((float(np.exp(-gamma[at])), exact(at)) for at in range(min(400, len(gamma))))
        return decide(gamma, exact, words)

    decide = noise._decide
    monkeypatch.setattr(noise, "_decide", watch)
    discrete_gaussian(sigma, 400)
    discrete_laplace(sigma.numerator if sigma.numerator < 2**44 else 2**44, 400)
    assert len(seen) > 1000
    with mpmath.workprec(200):
        for value, gamma in seen:
            true = mpmath.exp(-mpmath.mpf(gamma.numerator) / gamma.denominator)
            assert abs(value - true) <= true * 2.0**-44 or gamma > 60


def test_edges_of_the_geometric_law_are_powers_of_e() -> None:
    with mpmath.workprec(300):
        expected = [int(mpmath.floor(mpmath.exp(-k) * mpmath.mpf(2) ** 64)) for k in range(45, 0, -1)]
    assert noise._edges().tolist() == expected


@pytest.mark.parametrize("k", [1, 2, 10, 44])
def test_a_word_on_an_edge_is_decided_by_further_bits(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    word = noise._edges()[45 - k]
    monkeypatch.setattr(noise, "_words", lambda count: np.full(count, word, dtype=np.uint64))
    monkeypatch.setattr(os, "urandom", lambda count: b"\x00" * count)
    assert noise._geometric(3).tolist() == [k] * 3  # the lowest of the numbers that begin so lies below e^-k
    monkeypatch.setattr(os, "urandom", lambda count: b"\xff" * count)
    assert noise._geometric(3).tolist() == [k - 1] * 3


def test_a_word_between_edges_counts_the_edges_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.concatenate([noise._edges()[1:] + 1, noise._edges()[2:] - 1])
    with mpmath.workprec(300):
        expected = [max(k for k in range(46) if int(word) < mpmath.exp(-k) * 2**64) for word in words]
    monkeypatch.setattr(noise, "_words", lambda count: words)
    assert noise._geometric(len(words)).tolist() == expected


def test_a_uniform_number_near_exp_is_decided_by_further_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    gamma = Fraction(1, 3)
    word = noise._exp_bounds(gamma, 128)[0] >> 64
    reads: list[int] = []

    def urandom(count: int, digit: bytes) -> bytes:
        reads.append(count)
        return digit * count

    monkeypatch.setattr(os, "urandom", lambda count: urandom(count, b"\x00"))
    assert noise._Uniform(word).is_below_exp(gamma)
    monkeypatch.setattr(os, "urandom", lambda count: urandom(count, b"\xff"))
    assert not noise._Uniform(word).is_below_exp(gamma)
    assert reads == [8, 8]
    assert noise._Uniform(2**64 - 1).is_below_exp(Fraction(0))


def test_uniform_integers_drop_the_words_that_would_favour_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 3 << 40
    whole = 2**64 // n * n
    words = np.array([0, n - 1, n, whole - 1, whole, 2**64 - 1], dtype=np.uint64)
    monkeypatch.setattr(noise, "_words", lambda count: words)
    assert noise._below(n, 6).tolist() == [0, n - 1, 0, n - 1]
    assert noise._below(1 << 40, 6).tolist() == [
        int(word) % (1 << 40) for word in words
    ]  # divides 2**64: none is dropped


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    system = os.urandom

    def urandom(count: int) -> bytes:
        counts.append(count)
        return system(count)

    monkeypatch.setattr(os, "urandom", urandom)
    return counts


def test_every_draw_reads_the_systems_source_anew(read_bytes: list[int]) -> None:
    seen = set()
    for _ in range(50):
        before = sum(read_bytes)
        seen.add(tuple(gaussian_votes(40.0, (4,))))
        assert sum(read_bytes) - before >= 4 * 3 * 8
    assert len(seen) == 50


def test_after_a_fork_parent_and_child_draw_different_noise() -> None:
    gaussian_votes(40.0, (4,))
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, gaussian_votes(40.0, (4,)).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 32) != gaussian_votes(40.0, (4,)).tobytes()
    os.close(reading)
    os.close(writing)


def test_nothing_is_drawn_for_no_queries() -> None:
    assert gaussian_votes(1.0, (0, 5)).shape == (0, 5)
    assert laplace_votes(1.0, (3, 0)).shape == (3, 0)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), 1e-9, 1e9])
def test_a_scale_that_cannot_be_sampled_is_refused(bad: float) -> None:
    with pytest.raises(PrivacyError, match=r"sigma is .* votes, expected a number from 9.54e-07 to 1.68e\+07"):
        noise.check_scale(bad, "sigma")
    with pytest.raises(
        PrivacyError, match=r"sigma is .* grid steps, expected from 1 to 1.76e\+13 \(1048576 steps are one"
    ):
        discrete_gaussian(bad * STEPS, 1)
    with pytest.raises(PrivacyError, match="scale is .* grid steps, expected from 1 to"):
        discrete_laplace(bad * STEPS, 1)
    with pytest.raises(PrivacyError, match="sigma is .* grid steps, expected from 1 to"):
        rounded_gaussian(bad * STEPS, 1)


def test_what_is_no_number_is_refused() -> None:
    for bad in ("2", None, True):
        with pytest.raises(PrivacyError, match=r"sigma is .* votes, expected a number"):
            noise.check_scale(bad, "sigma")  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match=r"has a numerator over 2\*\*53; give a float"):
        discrete_laplace(Fraction(10**30 + 1, 10**29), 1)
