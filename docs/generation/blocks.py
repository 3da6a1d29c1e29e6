"""The fenced code blocks of a Markdown page."""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`]*)$")
TITLE = re.compile(r'title="([^"]*)"')


class Block(NamedTuple):
    """One block: its language and title, its text without the fence's indentation, and the line it begins on."""

    language: str
    title: str
    text: str
    line: int


def blocks_of(markdown: str) -> list[Block]:
    """Every fenced block, in order. **Raises** `ValueError` for one that is never closed."""
    blocks: list[Block] = []
    opened: re.Match[str] | None = None
    start, lines = 0, list[str]()
    for number, line in enumerate(markdown.splitlines(), 1):
        if opened is None:
            opened = FENCE.match(line)
            start, lines = number, []
        elif line.strip() == opened["ticks"]:
            info = opened["info"].strip()
            title = TITLE.search(info)
            text = textwrap.dedent("\n".join(lines)) + "\n"
            blocks.append(Block(info.partition(" ")[0], title[1] if title else "", text, start))
            opened = None
        else:
            lines.append(line)
    if opened is not None:
        raise ValueError(f"line {start}: this block is never closed")
    return blocks


class Command(NamedTuple):
    """One command of a console block, and what the page shows of its output."""

    text: str
    shown: str


def commands_of(block: Block) -> list[Command]:
    """The commands of a console block: each line that begins with `$ `, with the lines below it as its output.

    **Raises** `ValueError` when something stands before the first command.
    """
    commands: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            commands.append(Command(line[2:], ""))
        elif commands:
            commands[-1] = commands[-1]._replace(shown=f"{commands[-1].shown}{line}\n")
        elif line.strip():
            raise ValueError(f"line {block.line}: a console block begins with `$ `, got {line!r}")
    return commands


def agrees(shown: str, printed: str) -> bool:
    """Whether output is as shown, where `...` stands for anything; space at the end of lines does not count.

    >>> agrees("1 of 1 inputs in ... s", "1 of 1 inputs in 0.7 s")
    True
    >>> agrees("two", "three")
    False
    """
    pattern = ".*".join(re.escape(part) for part in _trimmed(shown).split("..."))
    return re.fullmatch(pattern, _trimmed(printed), re.DOTALL) is not None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
