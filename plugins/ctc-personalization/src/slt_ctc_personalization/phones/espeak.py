"""espeak-ng through ctypes: how the words of some 120 languages are said, as groups of IPA signs.

The library and its data come with the package `espeakng-loader`, which is optional. espeak-ng keeps one voice for the
whole process, so every call holds one lock and sets its voice anew when another was used before.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

from sltcore.errors import DataError, did_you_mean

Spoken = list[list[str]]
"""What a text is said as: a list of groups of signs (one phoneme of espeak-ng each) for each word that is spoken."""

_INSTALL = "pip install 'espeakng-loader>=0.2.4'"
_RETRIEVAL, _NO_SPEECH_OPTIONS = 1, 0x8000  # AUDIO_OUTPUT_RETRIEVAL; do not exit the process when data are missing
_UTF8 = 1
_IPA, _SEPARATED = 0x02, ord("_") << 8
_LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")
_NO_SOUNDS = str.maketrans("", "", "ˈˌ‖|0123456789")  # stress, and espeak-ng's numbers for tones, which are no IPA


class _Voice(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


def has_espeak() -> bool:
    """Whether the package `espeakng-loader` is installed."""
    return find_spec("espeakng_loader") is not None


@cache
def load_espeak() -> Espeak:
    """The espeak-ng of this process. **Raises** `DataError` with the remedy when the package is missing."""
    return Espeak()


class Espeak:
    """The engine behind `load_espeak`, of which a process needs one.

    **Source**: espeak-ng 1.52 (GPL-3.0), as the package espeakng-loader 0.2.4 carries it.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader as loader
        except ImportError as error:
            raise DataError(
                f"the package espeakng-loader, which brings espeak-ng and its languages, is not installed; {_INSTALL}"
            ) from error
        self._lock = threading.RLock()
        self._library = ctypes.CDLL(str(loader.get_library_path()))
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        data = str(loader.get_data_path()).encode()
        if self._library.espeak_Initialize(_RETRIEVAL, 0, data, _NO_SPEECH_OPTIONS) < 0:
            raise DataError(f"espeak-ng finds no data in {data.decode()}; install its package again: {_INSTALL}")
        self._voice = ""
        self.voices: dict[str, str] = self._list_voices()

    def _list_voices(self) -> dict[str, str]:
        """Language code to the identifier of its voice, the preferred one of a code."""
        found: dict[str, tuple[int, str]] = {}
        table = self._library.espeak_ListVoices(None)
        place = 0
        while table[place]:
            voice = table[place].contents
            # a priority byte, then the code, closed by a zero byte
            priority, code = voice.languages[0], voice.languages[1:].decode("utf-8").lower()
            if code not in found or priority < found[code][0]:
                found[code] = (priority, voice.identifier.decode("utf-8"))
            place += 1
        return {code: identifier for code, (_, identifier) in sorted(found.items())}

    def voice_of(self, language: str) -> str:
        """The code of the voice that speaks a language: its own, or the first that begins with it.

        **Raises** `DataError` when there is none.
        """
        wanted = language.strip().lower().replace("_", "-")
        preferred = {"en": "en-us", "fr": "fr-fr", "zh": "cmn", "no": "nb", "iw": "he"}.get(wanted, wanted)
        if preferred in self.voices:
            return preferred
        longer = [code for code in self.voices if code.startswith(f"{wanted}-")]
        shorter = wanted.rpartition("-")[0]
        if longer:
            return longer[0]
        if shorter:
            return self.voice_of(shorter)
        raise DataError(
            f"espeak-ng has no voice for language {language!r}.{did_you_mean(wanted, self.voices)} It speaks "
            f"{len(self.voices)}: {', '.join(self.voices)}."
        )

    def say(self, texts: Sequence[str], voice: str) -> list[Spoken]:
        """How each text is said in the voice of a code; empty for a text without anything to say."""
        with self._lock:
            self._select(voice)
            return [self._say(text) for text in texts]

    def _select(self, voice: str) -> None:
        if voice == self._voice:
            return
        if voice not in self.voices:
            raise DataError(
                f"espeak-ng has no voice {voice!r}.{did_you_mean(voice, self.voices)} Voices: {', '.join(self.voices)}."
            )
        if self._library.espeak_SetVoiceByName(self.voices[voice].encode()) != 0:
            raise DataError(f"espeak-ng cannot load its voice {voice!r}; install its package again: {_INSTALL}")
        self._voice = voice

    def _say(self, text: str) -> Spoken:
        rest = ctypes.c_char_p(text.replace("\0", " ").encode("utf-8"))
        pointer = ctypes.pointer(rest)
        words: Spoken = []
        while rest.value is not None:  # one clause a call, until nothing is left
            said = self._library.espeak_TextToPhonemes(pointer, _UTF8, _IPA | _SEPARATED)
            for word in (said or b"").decode("utf-8").split():
                groups = [group.translate(_NO_SOUNDS) for group in _LANGUAGE_SWITCH.sub("", word).split("_")]
                groups = [group for group in groups if group]
                if groups:
                    words.append(groups)
        return words
