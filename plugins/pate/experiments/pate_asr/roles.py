"""Lines of the game by dialogue file, and the units that files were merged into."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from sltcore.data import fotaq, sources
from sltcore.data.examples import Example, read_examples
from sltcore.data.layout import first
from sltcore.spec.training import DataConfig

CORPUS = "flight-of-the-amazon-queen"
TABLE = Path(__file__).with_name("units.json")


def dialogue_of_line() -> dict[str, tuple[str, bool]]:
    """The dialogue file of each line's id, and whether the hero says it."""
    roots = list(sources.fetch(CORPUS).roots)
    data = first(roots, "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c").read_bytes()
    found = fotaq.lines(data, fotaq.directory(data))
    return {line.entry.removesuffix(".SB"): (line.dialogue.removesuffix(".DOG"), line.hero) for line in found}


@cache
def lines_by_dialogue() -> dict[str | None, list[Example]]:
    """Lines with texts of each dialogue file, those of the hero, who is in all of them, under None."""
    place = dialogue_of_line()
    found: dict[str | None, list[Example]] = {}
    for example in read_examples([DataConfig.model_validate({"corpus": CORPUS})]):
        dialogue, is_hero = place[example.item.id]
        found.setdefault(None if is_hero else dialogue, []).append(example)
    return found


@cache
def unit_of_dialogue() -> dict[str, str]:
    """The unit of each dialogue file, named by its first one; files that sound like the hero are in none."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return {dialogue: "+".join(group) for group in table["units"] for dialogue in group}
