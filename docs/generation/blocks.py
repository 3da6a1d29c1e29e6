"""The fenced code blocks of a Markdown page."""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`]*)$")
TITLE = re.compile(r'title="([^"]*)"')
NAMED = re.compile(r"^`([\w./-]+\.[a-z]+)`:")
PROGRAMS = ("slt", "pip", "make", "pytest", "git", "cat", "ls")


class Block(NamedTuple):
    """One block: its language and title, its text without the fence's indentation, and the line it begins on.

    The title is that of the fence, or the file that the line above begins with, as in "`asr.yaml`: the pipeline".
    """

    language: str
    title: str
    text: str
    line: int


def blocks_of(markdown: str) -> list[Block]:
    """Every fenced block, in order. **Raises** `ValueError` for one that is never closed."""
    blocks: list[Block] = []
    opened: re.Match[str] | None = None
    start, lines, above = 0, list[str](), ""
    for number, line in enumerate(markdown.splitlines(), 1):
        if opened is None:
            opened = FENCE.match(line)
            start, lines = number, []
            above = line if opened is None and line.strip() else above
        elif line.strip() == opened["ticks"]:
            info = opened["info"].strip()
            title = TITLE.search(info) or NAMED.match(above)
            text = textwrap.dedent("\n".join(lines)) + "\n"
            blocks.append(Block(info.partition(" ")[0] or _language(text), title[1] if title else "", text, start))
            opened, above = None, ""
        else:
            lines.append(line)
    if opened is not None:
        raise ValueError(f"line {start}: this block is never closed")
    return blocks


def _language(text: str) -> str:
    """Of a block that names none: console, where every line is a command or the output of one."""
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and (lines[0].startswith("$ ") or all(line.split()[0] in PROGRAMS for line in lines)):
        return "console"
    return ""


class Command(NamedTuple):
    """One command of a console block, and what the page shows of its output."""

    text: str
    shown: str


def commands_of(block: Block) -> list[Command]:
    """The commands of a console block: each line that begins with `$ `, with the lines below it as its output; where no
    line does, each line is a command.

    **Raises** `ValueError` when something stands before the first command.
    """
    commands: list[Command] = []
    if not any(line.startswith("$ ") for line in block.text.splitlines()):
        return [Command(line, "") for line in block.text.splitlines() if line.strip()]
    for line in block.text.splitlines():
        if line.startswith("$ "):
            commands.append(Command(line[2:], ""))
        elif commands:
            commands[-1] = commands[-1]._replace(shown=f"{commands[-1].shown}{line}\n")
        elif line.strip():
            raise ValueError(f"line {block.line}: a console block begins with `$ `, got {line!r}")
    return commands


def agrees(shown: str, printed: str) -> bool:
    """Whether output is as shown: `...` stands for anything within a line, and alone on a line for any number of lines.
    The width of gaps between words does not count.

    >>> agrees("1 of 1 inputs in ... s", "1 of 1 inputs in 0.7 s")
    True
    >>> agrees("one\\n...\\nfour", "one\\ntwo\\nthree\\nfour")
    True
    >>> agrees("two", "three")
    False
    """
    pattern = ""
    for line in _lines(shown):
        parts = (re.escape(part) for part in line.split("..."))
        pattern += "(?:.*\n)*?" if line == "..." else ".*".join(parts) + "\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(printed))) is not None


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.strip().splitlines()]
