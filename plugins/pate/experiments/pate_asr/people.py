"""Made-up people who say ten digits: formant patterns with a vocal tract, a channel, a tempo and noise of their own.

No recording and no person stands behind them. Studio voices are public and have texts; the other domain has shorter vocal
tracts, a telephone's channel and more noise, as children on a call might.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BANDS, TIMES = 16, 12
LOW_HZ, HIGH_HZ = 150.0, 5000.0
WIDTH_MEL = 110.0
"""Of a resonance, as the standard deviation of its bump."""

PHONES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "iy": (270, 2290, 3010), "ih": (390, 1990, 2550), "eh": (530, 1840, 2480), "ah": (640, 1190, 2390),
        "ao": (570, 840, 2410), "uw": (300, 870, 2240), "er": (490, 1350, 1690), "ow": (450, 830, 2400), "ay": (700, 1400, 2450),
        "ey": (450, 2050, 2600), "n": (250, 1500, 2500), "w": (290, 610, 2150), "r": (310, 1060, 1380), "v": (220, 1100, 2080),
        "z": (220, 4200), "s": (4500,), "f": (3400,), "th": (3800,), "t": (3000,), "k": (1800,),
    }
)  # fmt: skip
"""Resonances in Hz: vowels after Peterson and Barney 1952 (men), consonants roughly."""
WORDS: Mapping[str, str] = MappingProxyType(
    {
        "zero": "z ih r ow", "one": "w ah n", "two": "t uw", "three": "th r iy", "four": "f ao r", "five": "f ay v",
        "six": "s ih k s", "seven": "s eh v ah n", "eight": "ey t", "nine": "n ay n",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Domain:
    """How voices of a domain differ: mean and spread of the vocal tract's factor, tilt per band, noise, floor."""

    tract: float
    tract_spread: float
    tilt: float
    noise: float
    floor: float


STUDIO = Domain(tract=1.0, tract_spread=0.06, tilt=0.0, noise=0.5, floor=-3.0)
CALLS = Domain(tract=1.2, tract_spread=0.09, tilt=-0.07, noise=0.6, floor=-1.2)


@dataclass(frozen=True)
class Said:
    """Utterances: features float64 [n 192], digit int [n], who int [n]."""

    features: Floats
    digits: NDArray[np.int64]
    people: NDArray[np.int64]


def say(domain: Domain, people: int, each: int, rng: np.random.Generator) -> Said:
    """`each` utterances of so many people; ten of one person are the ten digits, fewer are drawn without repetition."""
    tract = rng.normal(domain.tract, domain.tract_spread, people)
    accent = rng.normal(0, 0.06, (people, len(PHONES), 3))
    tilt = domain.tilt + rng.normal(0, 0.03, people)
    digits = np.stack([rng.permutation(10)[:each] for _ in range(people)])
    rows = [
        utterance(digit, tract[person], accent[person], tilt[person], domain, rng)
        for person in range(people)
        for digit in digits[person]
    ]
    return Said(np.stack(rows), digits.ravel(), np.repeat(np.arange(people), each))


def utterance(
    digit: int, tract: float, accent: Floats, tilt: float, domain: Domain, rng: np.random.Generator
) -> Floats:
    """The log-spectrum [192] of one digit, 12 moments of 16 bands, with a tempo and noise of its own."""
    names = list(WORDS.values())[digit].split()
    order = list(PHONES)
    spectra = np.stack([spectrum(PHONES[name], tract, accent[order.index(name)]) for name in names])
    moments = np.linspace(0, 1, TIMES) ** np.exp(rng.normal(0, 0.25)) * (len(names) - 1)
    before = np.minimum(moments.astype(int), len(names) - 2)
    part = (moments - before)[:, None]
    clean = (1 - part) * spectra[before] + part * spectra[before + 1]
    sent = np.logaddexp(clean + tilt * np.arange(BANDS), domain.floor)
    return np.asarray(sent + rng.normal(0, domain.noise, sent.shape) + rng.normal(0, 0.3)).ravel()


def spectrum(resonances: tuple[float, ...], tract: float, accent: Floats) -> Floats:
    """Log energy [16] in bands of equal width in mel: a bump at each resonance."""
    centres = np.linspace(mel(LOW_HZ), mel(HIGH_HZ), BANDS)
    places = mel(np.array(resonances) * tract * np.exp(accent[: len(resonances)]))
    bumps = np.exp(-0.5 * ((centres[:, None] - places) / WIDTH_MEL) ** 2)
    return np.asarray(1.25 * np.log(0.03 + bumps.sum(1)))


def mel(hertz: Any) -> Any:
    """Mel of hertz."""
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)
