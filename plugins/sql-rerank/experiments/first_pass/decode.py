"""Write the n-best lists of the first pass: one line of JSON for each question, the best candidates first.

    python decode.py --data SPIDER --model SMOLLM2 --adapter OUT/adapter --split dev --out lists/dev.jsonl

SMOLLM2: the base as convert.py writes it; the adapter: what train.py has learned. `--synonyms` asks the questions in their other
words, `--constrained` lets the model write nothing but SQL over the schema. Lines that OUT has already are kept.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from beam import Allowed, Beam, search
from llama import Llama
from peft import PeftModel
from prompts import Prompts
from spider import Question, Spider
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from slt_sql_rerank.candidates.distinct import distinct
from slt_sql_rerank.databases import Sandboxes
from slt_sql_rerank.schema import from_sqlite
from sltcore.types import Hypothesis


def main(arguments: Sequence[str] | None = None) -> None:
    """Decode what is not there yet, then write the lines in the order of the questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "model", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--split", choices=("dev", "tune"), required=True)
    parser.add_argument("--synonyms", action="store_true")
    parser.add_argument("--constrained", action="store_true")
    parser.add_argument("--width", type=int, default=12, help="of the beam")
    parser.add_argument("--keep", type=int, default=10, help="different queries in a list")
    parser.add_argument("--longest", type=int, default=160, help="tokens of an answer")
    parser.add_argument("--batch", type=int, default=8, help="questions at once")
    parser.add_argument("--part", default="0/1", help="K/N: the K-th of N shares, for N processes at once")
    parser.add_argument("--databases", type=Path, help="where databases are unpacked; beside OUT if not given")
    given = parser.parse_args(arguments)
    spider = Spider(given.data, given.databases or given.out.parent / "databases")
    questions = spider.questions(given.split)
    part, parts = map(int, given.part.split("/"))
    file = given.out.with_suffix(f".part{part}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    known = {line["id"]: line for line in _lines([given.out, *given.out.parent.glob(f"{given.out.stem}.part*")])}
    missing = [one for number, one in enumerate(_batches(questions, given.batch)) if number % parts == part]
    decoder = Decoder(given, spider)
    begin, done = time.monotonic(), 0
    with file.open("a", encoding="utf-8") as out:
        for batch in missing:
            asked = [question for question in batch if question.id not in known]
            for line in decoder.lists(asked) if asked else ():
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
            out.flush()
            done += len(asked)
            print(f"{done} questions, {time.monotonic() - begin:.0f} s", flush=True)
    known = {line["id"]: line for line in _lines([given.out, *given.out.parent.glob(f"{given.out.stem}.part*")])}
    if all(question.id in known for question in questions):
        text = "".join(json.dumps(known[question.id], ensure_ascii=False) + "\n" for question in questions)
        with gzip.GzipFile(f"{given.out}.gz", "wb", mtime=0) as packed:
            packed.write(text.encode())
        print(f"{len(questions)} lists in {given.out}.gz")


class Decoder:
    """The model, and its lists for questions of one database."""

    def __init__(self, given: argparse.Namespace, spider: Spider) -> None:
        self.given, self.spider, self.prompts = given, spider, Prompts(spider)
        self.sandboxes = Sandboxes()
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(given.model)
        model: Any = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.bfloat16)
        if given.adapter:
            model = PeftModel.from_pretrained(model, given.adapter).merge_and_unload()
        self.model = Llama(model)
        self.beam = Beam(given.width, given.longest, int(self.tokenizer.eos_token_id), given.keep)

    def lists(self, questions: Sequence[Question]) -> Iterator[dict[str, Any]]:
        """A line for each question; all are of one database."""
        name = questions[0].db_id
        schema = self.model.schema(self.tokenizer(self.prompts.schema(name)).input_ids)
        texts = [question.question_synonym if self.given.synonyms else question.question for question in questions]
        asked = [
            self.tokenizer(self.prompts.question(question, text)).input_ids
            for question, text in zip(questions, texts, strict=True)
        ]
        found = search(self.model, schema, asked, self.beam, self._allowed(name))
        for question, text, written in zip(questions, texts, found, strict=True):
            best = distinct(Hypothesis(self.tokenizer.decode(one.tokens).strip(), one.score) for one in written)
            candidates = [{"sql": one.text, "score": round(one.score, 4)} for one in best[: self.given.keep]]
            yield {"id": question.id, "db_id": name, "question": text, "candidates": candidates}

    def _allowed(self, name: str) -> Allowed | None:
        if not self.given.constrained:
            return None
        from slt_sql_rerank.constrained.constraint import SqlConstraint
        from slt_sql_rerank.constrained.decoder import in_backticks

        place = str(self.spider.database(name))
        constraint = SqlConstraint(
            from_sqlite(place),
            self.tokenizer,
            lambda text: self.sandboxes.of(place).check_all([in_backticks(text)])[0].ok,
        )
        return lambda question, written: constraint.allowed(written)


def _batches(questions: Sequence[Question], size: int) -> list[list[Question]]:
    """Questions of one database and of similar length."""
    groups: dict[str, list[Question]] = defaultdict(list)
    for question in sorted(questions, key=lambda one: len(one.question)):
        groups[question.db_id].append(question)
    return [group[begin : begin + size] for group in groups.values() for begin in range(0, len(group), size)]


def _lines(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        if file.is_file():
            for line in file.read_text(encoding="utf-8").split("\n"):
                if line.endswith("}"):
                    yield json.loads(line)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    main()
