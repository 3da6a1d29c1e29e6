"""The rows that a decode stage leaves: also a manifest, from which a later stage may learn."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from sltcore.errors import DataError

if TYPE_CHECKING:
    from sltcore.audio import Recording
    from sltcore.data.examples import Example
    from sltcore.pipeline import Output

OUTPUTS = "outputs.jsonl"
MOST_HYPOTHESES = 10
REFERENCE = "reference"
OWN = ("id", "audio", "channel", "text", REFERENCE, "score", "nbest", "seconds", "output", "error")
"""Keys of a row: `text` is what was said to be said, `reference` the text of the data, `audio` the recording that went
in, `output` the file of a result that is no text. Other columns of the data stand under their names; one that is called
like ours stands under `data.NAME`."""


def columns_of(example: Example) -> dict[str, Any]:
    """The columns of an utterance's data under the data's names."""
    item = example.item
    found = {**item.extra, "id": item.id, "text": item.text, "speaker": item.speaker, "seconds": example.seconds}
    return {name: value for name, value in found.items() if value is not None}


def column(row: Mapping[str, Any], name: str) -> Any:
    """A column of the data, by the data's name, from a row of outputs."""
    if name in ("id", "seconds"):
        return row.get(name)
    if name == "text":
        return row.get(REFERENCE)
    return row.get(f"data.{name}" if name in OWN else name)


def read_outputs(folder: Path) -> list[dict[str, Any]]:
    """The rows of a finished decode stage. **Raises** `DataError` when there are none that can be read."""
    path = folder / OUTPUTS
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; delete its folder and run the experiment again") from None
    return rows


class OutputWriter:
    """Writes rows as they come. `audio` recordings, in and out, are kept for people to hear, those of the first
    utterances; with `inputs` every recording that lies in no file of its own gets one. Inputs are recordings, or texts
    where the pipeline `reads_text`.

    After the block, `failed` says why utterances have no result, and `kept` lists the recordings to hear.
    """

    def __init__(self, folder: Path, *, audio: int, inputs: bool, reads_text: bool) -> None:
        self.folder = folder
        self.audio = audio
        self.reads_text = reads_text
        self.inputs = inputs
        self.failed: dict[str, str] = {}
        self.kept: list[dict[str, Any]] = []
        self._count = 0
        self._file: IO[str] | None = None

    def __enter__(self) -> OutputWriter:
        self._file = (self.folder / OUTPUTS).open("w", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def add(self, example: Example, output: Output) -> None:
        """One utterance. An output that failed counts as an empty one."""
        assert self._file is not None
        item, number = example.item, self._count
        self._count += 1
        row: dict[str, Any] = {"id": item.id}
        source = None if self.reads_text else self._source(item.source, number)
        if source is not None:
            row["audio"] = source
            if item.channel is not None:
                row["channel"] = item.channel
        if output.error is not None:
            self.failed[item.id] = row["error"] = " ".join(str(output.error).split())
            row["text"] = ""
        else:
            row.update(self._result(output.value, number))
        if item.text is not None:
            row[REFERENCE] = item.text
        row["seconds"] = round(example.seconds, 4)
        for name, value in columns_of(example).items():
            if name not in ("id", "text", "seconds") and _is_plain(value):
                row[f"data.{name}" if name in OWN else name] = value
        self._file.write(json.dumps(row, ensure_ascii=True) + "\n")
        if number < self.audio:
            self._keep(example, row, output)

    def _source(self, source: Any, number: int) -> str | None:
        """The path of the recording that went in, where it has one or gets one."""
        if isinstance(source, str | Path):
            path = Path(source)
            return os.path.abspath(path) if path.exists() else None
        if not isinstance(source, Mapping):
            return None
        if source.get("bytes") is None:
            return os.path.abspath(source["path"]) if source.get("path") else None
        if not self.inputs:
            return None
        name = Path("inputs") / f"{number:06d}{Path(str(source.get('path') or '')).suffix or '.wav'}"
        (self.folder / "inputs").mkdir(exist_ok=True)
        (self.folder / name).write_bytes(source["bytes"])
        return name.as_posix()

    def _result(self, value: Any, number: int) -> dict[str, Any]:
        from sltcore.audio import Recording
        from sltcore.types import NBest

        if isinstance(value, NBest):
            found: dict[str, Any] = {"text": value.text, "score": _finite(value.best.score)}
            if len(value) > 1:
                found["nbest"] = [
                    {"text": other.text, "score": _finite(other.score)} for other in value[:MOST_HYPOTHESES]
                ]
            return found
        if isinstance(value, str):
            return {"text": value}
        (self.folder / "results").mkdir(exist_ok=True)
        if isinstance(value, Recording):
            name = Path("results") / f"{number:06d}.wav"
            _write_wav(self.folder / name, value, "FLOAT")
        else:
            import numpy as np

            name = Path("results") / f"{number:06d}.npy"
            np.save(self.folder / name, np.asarray(value), allow_pickle=False)
        return {"output": name.as_posix()}

    def _keep(self, example: Example, row: Mapping[str, Any], output: Output) -> None:
        """Copies for people to hear: 16 bits, as a page can play them."""
        from sltcore.audio import Recording, read_audio

        (self.folder / "audio").mkdir(exist_ok=True)
        number = len(self.kept)
        kept: dict[str, Any] = {"id": row["id"], "text": row.get("text", ""), REFERENCE: row.get(REFERENCE, "")}
        if not self.reads_text:
            kept["in"] = f"audio/{number:03d}-in.wav"
            heard = read_audio(example.item.source, channel=example.item.channel)  # type: ignore[arg-type]
            _write_wav(self.folder / kept["in"], heard, "PCM_16")
        if isinstance(output.value, Recording):
            kept["out"] = f"audio/{number:03d}-out.wav"
            _write_wav(self.folder / kept["out"], output.value, "PCM_16")
        self.kept.append(kept)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | bool) or (isinstance(value, float) and math.isfinite(value))


def _finite(score: float) -> float | None:
    return round(float(score), 6) if math.isfinite(score) else None


def _write_wav(path: Path, recording: Recording, subtype: str) -> None:
    import numpy as np
    import soundfile

    samples = recording.samples if subtype == "FLOAT" else np.clip(recording.samples, -1.0, 1.0)
    soundfile.write(path, samples, recording.sample_rate_hz, format="WAV", subtype=subtype)
