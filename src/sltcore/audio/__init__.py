"""Reading recordings: any common file, bytes, array or `datasets` entry becomes mono float32 at one sample rate."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sltcore.audio.headers import AUDIO_EXTENSIONS

if TYPE_CHECKING:
    from sltcore.audio.reading import AudioFacts, AudioStream, Channel, Recording, open_audio, probe, read_audio

__all__ = ["AUDIO_EXTENSIONS", "AudioFacts", "AudioStream", "Channel", "Recording", "open_audio", "probe", "read_audio"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: `sltcore.audio.headers` alone needs no numpy."""
    if name not in __all__:
        raise AttributeError(f"module 'sltcore.audio' has no attribute '{name}'; public names: {', '.join(__all__)}")
    return getattr(import_module("sltcore.audio.reading"), name)
