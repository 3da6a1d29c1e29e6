"""Synthetic utterances of the new words by espeak-ng, in carrier sentences of our own."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

CARRIERS = (
    "please write {} on the first page",
    "i can read {} on that poster",
    "the next line begins with {}",
    "{} is what the radio said",
    "nobody in our office says {} any more",
    "my answer to number four is {}",
    "spell {} slowly for the class",
    "she whispered {} and closed the window",
)
"""They suit any word, whatever its part of speech, and stand in no text of the corpora."""
VOICES = ("en-us", "en-us+f2", "en", "en-gb-x-rp+m3", "en-gb-scotland+m7", "en-us+f4", "en+f5", "en-us+m1")
SPEEDS = (140, 165, 190)
"""Words a minute."""
PITCHES = (35, 50, 65)
SYNCHRONOUS, NO_EXIT, UTF8, RATE_PARAMETER, PITCH_PARAMETER = 2, 0x8000, 1, 1, 3
RATE = 16000

Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """The engine of this process, which hands out samples.

    **Source**: espeak-ng 1.52 (GPL-3.0), as the package espeakng-loader carries it.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader as loader
        except ImportError:
            raise SystemExit("synthetic utterances need espeak-ng: pip install espeakng-loader") from None
        self._library = ctypes.CDLL(str(loader.get_library_path()))
        self._rate = self._library.espeak_Initialize(SYNCHRONOUS, 0, str(loader.get_data_path()).encode(), NO_EXIT)
        if self._rate <= 0:
            raise SystemExit("espeak-ng finds no data; install espeakng-loader again")
        self._heard: list[np.ndarray[Any, Any]] = []

        def hear(samples: Any, count: int, events: Any) -> int:
            if samples and count:
                self._heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        self._callback = Callback(hear)  # kept, for the library calls it later
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, *, voice: str, speed: int, pitch: int) -> np.ndarray[Any, Any]:
        """Samples (n,) float32 at 16 kHz."""
        from scipy.signal import resample_poly

        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise SystemExit(f"espeak-ng has no voice {voice}")
        self._library.espeak_SetParameter(RATE_PARAMETER, speed, 0)
        self._library.espeak_SetParameter(PITCH_PARAMETER, pitch, 0)
        self._heard = []
        words = text.encode() + b"\0"
        self._library.espeak_Synth(words, len(words), 0, 1, 0, UTF8, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._heard).astype(np.float32) / 32768
        common = int(np.gcd(RATE, self._rate))
        resampled: np.ndarray[Any, Any] = resample_poly(samples, RATE // common, self._rate // common)
        return resampled.astype(np.float32)


@cache
def engine() -> Espeak:
    """One for the process."""
    return Espeak()


def utterances(words: Sequence[str], name: str) -> Iterator[tuple[str, np.ndarray[Any, Any], str, str]]:
    """Every word in every carrier; voice, speed and pitch by a hash of the sentence, voices in turn."""
    for place, word in enumerate(words):
        for number, carrier in enumerate(CARRIERS):
            text = carrier.format(word)
            drawn = hashlib.sha256(text.encode()).digest()
            voice = VOICES[(place + number) % len(VOICES)]
            speed, pitch = SPEEDS[drawn[0] % len(SPEEDS)], PITCHES[drawn[1] % len(PITCHES)]
            samples = engine().say(text, voice=voice, speed=speed, pitch=pitch)
            yield f"{name}-{place}-{number}", samples, text, f"espeak {voice}"
