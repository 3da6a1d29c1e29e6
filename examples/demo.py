"""The main job, shown: transcribe a real recording, then again with a list of phrases, and say what the list changed.

    python examples/demo.py [RECORDING [PHRASES]]

Without a recording it takes a telephone prompt of the corpus asterisk-en, or where that cannot be fetched, a recording
that a Python package carries, and says which.
"""

from __future__ import annotations

import difflib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from sltcore.data.demo_recording import demo_recording
from sltcore.errors import SltError

SPEC = Path(__file__).with_name("transcribe.yaml")
SLT = Path(sys.executable).with_name("slt")


def say(line: str) -> None:
    """One line, at once."""
    print(line, flush=True)


def transcribe(recording: Path, phrases: Path | None) -> dict[str, object]:
    """What `slt run` prints as JSON; its remarks go through to the screen."""
    command = [str(SLT), "run", str(SPEC), str(recording), *(["--phrases", str(phrases)] if phrases else [])]
    say(f"$ {' '.join(['slt', *command[1:]])}")
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    row: dict[str, object] = json.loads(done.stdout)
    say(f"{row['text']}\n")
    return row


def changes(before: str, after: str) -> list[str]:
    """Words that differ, with their neighbours left out."""
    old, new = before.split(), after.split()
    blocks = difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes()
    return [
        f"{' '.join(old[a:b]) or '(nothing)'} -> {' '.join(new[c:d]) or '(nothing)'}"
        for kind, a, b, c, d in blocks
        if kind != "equal"
    ]


def main(arguments: list[str]) -> None:
    """Run the demonstration."""
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / "phrases.txt"
        if arguments:
            recording, spoken = Path(arguments[0]), ""
            names = Path(arguments[1]) if len(arguments) > 1 else SPEC.with_name("phrases.txt")
        else:
            try:
                found = demo_recording(progress=say)
            except SltError as error:
                raise SystemExit(f"error: {error}") from None
            recording, spoken = found.path, found.text
            names.write_text("\n".join(found.phrases) + "\n", encoding="utf-8")
            say(f"recording: {found.note}")
            say(f"spoken: {spoken}\n")
        plain = transcribe(recording, None)
        boosted = transcribe(recording, names)
        listed = ", ".join(
            line for line in names.read_text(encoding="utf-8").splitlines() if line.strip() and not line.startswith("#")
        )
        say(f"phrases: {listed}")
        found_changes = changes(str(plain["text"]), str(boosted["text"]))
        say("what the list changed:" if found_changes else "the list changed nothing in this recording")
        for change in found_changes:
            say(f"  {change}")


if __name__ == "__main__":
    main(sys.argv[1:])
