"""Lists of candidates from a file, ranked against one database, with reasons."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

from slt_sql_rerank.databases import has_rows, schema_of
from sltcore.errors import DataError, did_you_mean
from sltcore.types import Hypothesis, NBest

HARD: Mapping[str, Any] = MappingProxyType({"rule": "hard"})
BLOCKS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "weighted": {"use": "weighted"},
        "schema-linking": {"use": "schema-linking"},
        "query-plan": {"use": "query-plan"},
        "linking-plan": {
            "use": "in-turn",
            "rerankers": [{"use": "schema-linking", **HARD}, {"use": "query-plan", **HARD}],
        },
        "plan-linking": {
            "use": "in-turn",
            "rerankers": [{"use": "query-plan", **HARD}, {"use": "schema-linking", **HARD}],
        },
        "first-executable": {"use": "first-executable"},
        "majority-vote": {"use": "majority-vote"},
        "likelihood": {"use": "likelihood"},
    }
)
"""Rerankers by the name that `slt rank --by` takes."""
RUNS = ("first-executable", "majority-vote")
LONGEST_LINE = 16 * 2**20
SECONDS = 2.0
MOST_ROWS = 5


@dataclass(frozen=True)
class Listed:
    """One question and its candidates, as a line of the file says."""

    id: str
    question: str
    candidates: NBest


@dataclass(frozen=True)
class Ranked:
    """A question's candidates in their new order; `was` are the places they had, from 1."""

    id: str
    question: str
    links: tuple[str, ...]
    candidates: NBest
    was: tuple[int, ...]
    result: Mapping[str, Any] | None = None

    def rows(self) -> Iterator[tuple[int, int, str, str]]:
        """Place, place before, candidate and reasons in a few words."""
        for place, (hypothesis, was) in enumerate(zip(self.candidates, self.was, strict=True), 1):
            yield (
                place,
                was,
                hypothesis.text,
                "; ".join(_briefly(hypothesis.extra)) or ("nothing against it" if hypothesis.extra else ""),
            )

    def explained(self) -> list[str]:
        """Everything, in lines."""
        lines = [f"{self.id}: {self.question}", *(f"  link: {link}" for link in self.links)]
        for place, (hypothesis, was) in enumerate(zip(self.candidates, self.was, strict=True), 1):
            lines.append(f"{place}. (was {was}, score {hypothesis.score:g}) {' '.join(hypothesis.text.split())}")
            lines += [f"   {reason}" for reason in _fully(hypothesis.extra)]
        return lines

    def result_lines(self) -> list[str]:
        """The rows of the first candidate, where it was run."""
        if self.result is None:
            return []
        if not self.result["ok"]:
            return [f"the first candidate was not run to its end: {self.result['reason']}"]
        rows = self.result["rows"]
        shown = [", ".join(map(repr, row)) for row in rows[:MOST_ROWS]]
        return [f"{len(rows)} rows", *shown, *(["…"] if len(rows) > MOST_ROWS else [])]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        ranked = [
            {"sql": h.text, "score": h.score, "was": was, "reasons": dict(h.extra)}
            for h, was in zip(self.candidates, self.was, strict=True)
        ]
        found = {"id": self.id, "question": self.question, "links": list(self.links), "ranked": ranked}
        return found if self.result is None else {**found, "result": dict(self.result)}


def read_lists(source: str) -> Iterator[Listed]:
    """The lines of a JSONL file, "-" for standard input, one by one.

    **Raises** `DataError` naming file and line, for what is no list of candidates.
    """
    if source == "-":
        yield from _lines(sys.stdin, "standard input")
        return
    try:
        with Path(source).open(encoding="utf-8") as file:
            yield from _lines(file, source)
    except OSError as error:
        raise DataError(
            f"{source} cannot be read: {error.strerror}; expected JSONL with question and candidates"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source} is not UTF-8 at byte {error.start}; expected JSONL with question and candidates"
        ) from None


def _lines(file: TextIO, name: str) -> Iterator[Listed]:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DataError(f"{name}:{number}: the line is longer than {LONGEST_LINE >> 20} MB")
        if line.strip():
            yield listed(line, f"{name}:{number}", str(number))
    if not number:
        raise DataError(f"{name} is empty; expected a line of JSON with question and candidates for each question")


def listed(line: str, where: str, name: str) -> Listed:
    """One line. **Raises** `DataError` for what is no list of candidates."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: no JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(data, dict):
        raise DataError(f"{where}: a {type(data).__name__}; expected an object with question and candidates")
    question, found = data.get("question"), data.get("candidates")
    if not isinstance(question, str) or not question.strip():
        near = did_you_mean("question", [key for key in data if isinstance(key, str)])
        raise DataError(f"{where}: question is {question!r}; expected a text.{near}")
    if not isinstance(found, list) or not found:
        raise DataError(f"{where}: candidates is {_kind(found)}; expected a list of at least one")
    return Listed(str(data.get("id", name)), question, NBest(candidate(one, k, where) for k, one in enumerate(found)))


def candidate(one: Any, place: int, where: str) -> Hypothesis:
    """A text, or an object with sql and score. **Raises** `DataError` for anything else."""
    data = {"sql": one} if isinstance(one, str) else one
    if not isinstance(data, dict) or not isinstance(data.get("sql"), str):
        raise DataError(
            f'{where}: candidates[{place}] is {_kind(one)}; expected a text, or {{"sql": TEXT, "score": NUMBER}}'
        )
    score = data.get("score", -float(place))
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise DataError(f"{where}: candidates[{place}].score is {score!r}; expected a finite number, a log-probability")
    return Hypothesis(data["sql"], float(score))


def _kind(value: Any) -> str:
    return "missing" if value is None else "empty" if value == [] else f"a {type(value).__name__}"


def rank(database: str, lists: Iterator[Listed], *, by: str = "weighted", execute: bool = False) -> Iterator[Ranked]:
    """Each list in the order of a reranker of `BLOCKS`, or of the block `reranker` in a YAML file.

    **Raises** `DataError` for a database that cannot be read, `SpecError` for a reranker that there is not.
    """
    schema_of(database)  # tells at once what cannot be read
    reranker = build(by)
    context: dict[str, Any] = {"database": database}
    for one in lists:
        found = reranker.rerank(one.question, one.candidates, context)
        was = _places(one.candidates, found)
        result = _run(database, found) if execute and has_rows(database) else None
        yield Ranked(one.id, one.question, _links(reranker, one.question, context), found, was, result)


def build(by: str) -> Any:
    """A reranker by name, or of a file's block. **Raises** `SpecError` or `DataError`."""
    from sltcore.pipeline.build import build_component

    block: Any = BLOCKS.get(by)
    if block is None and Path(by).suffix in (".yaml", ".yml"):
        block = _of_file(Path(by))
    if block is None:
        raise DataError(
            f"no reranker is named '{by}'; there are: {', '.join(BLOCKS)}, or a YAML file.{did_you_mean(by, BLOCKS)}"
        )
    rest = {key: value for key, value in block.items() if key != "use"}
    return build_component("reranker", block["use"], rest)


def _of_file(path: Path) -> Any:
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    block = data.get("reranker", data) if isinstance(data, dict) else None
    if not isinstance(block, dict) or "use" not in block:
        raise DataError(f"{path} has no reranker; expected a spec with one, or a block such as 'use: query-plan'")
    return block


def _places(before: Sequence[Hypothesis], after: Sequence[Hypothesis]) -> tuple[int, ...]:
    left: dict[tuple[str, float], list[int]] = {}
    for place, one in enumerate(before, 1):
        left.setdefault((one.text, one.score), []).append(place)
    return tuple(left[one.text, one.score].pop(0) for one in after)


def _links(reranker: Any, question: str, context: Mapping[str, Any]) -> tuple[str, ...]:
    for part in (reranker, *getattr(reranker, "rerankers", ())):
        if hasattr(part, "links"):
            return tuple(part.links(question, context))
    return ()


def _run(database: str, ranked: NBest) -> dict[str, Any]:
    from slt_sql_rerank.databases import Sandboxes

    with Sandboxes() as sandboxes:
        result = sandboxes.of(database).execute(ranked.text, SECONDS)
    rows = [[cell.hex() if isinstance(cell, bytes) else cell for cell in row] for row in result.rows]
    return {"ok": result.ok, "reason": result.reason, "columns": list(result.columns), "rows": rows}


def _briefly(extra: Mapping[str, Any]) -> Iterator[str]:
    linking, plan = extra.get("schema-linking"), extra.get("query-plan")
    if linking is not None and linking.get("impossible"):
        yield f"impossible: {linking['impossible']}"
        return
    if linking is not None:
        yield from (one["why"] for one in linking["broken"][:2])
    if plan is not None and plan.get("impossible"):
        yield f"impossible: {plan['impossible']}"
        return
    if plan is not None:
        with suppress(KeyError):
            if plan["missing"]:
                yield f"no {', '.join(plan['missing'])}"
            if plan["surplus"]:
                yield f"needless {', '.join(plan['surplus'])}"


def _fully(extra: Mapping[str, Any]) -> Iterator[str]:
    linking, plan, weighted = extra.get("schema-linking"), extra.get("query-plan"), extra.get("weighted")
    if linking is not None and linking.get("impossible"):
        yield f"impossible: {linking['impossible']}"
    elif linking is not None:
        yield f"links: {linking['points']:g} points"
        yield from (f"  {one['points']:g} {one['constraint']}: {one['why']}" for one in linking["broken"])
    if plan is not None and not plan.get("impossible"):
        yield f"plan: wanted '{plan['wanted']}', has " + (f"'{plan['has']}'" if plan["has"] else "no query")
    if weighted is not None and weighted["score"] is not None:
        shares = ", ".join(f"{name} {value:+.3g}" for name, value in weighted["shares"].items())
        yield f"score {weighted['score']:.4g} = {shares}"
