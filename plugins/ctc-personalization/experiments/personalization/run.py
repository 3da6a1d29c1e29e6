"""Contextual adapters, boosting and the phone network on words that nothing was trained on; writes a report.

    python run.py --language en --runs RUNS --out OUT      (after train.sh; --sizes 0,10,100 --seeds 0,1 for less)

RUNS holds the adapters that `train.sh` makes, adapter-LANG-SEED; the bases with their phone heads lie in `bases`.
Everything is kept in OUT: a second call goes on where the first one stopped. The arms stand in `arms.py`, the words in `lists.py`, peers in `peers.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import peers as peers_module  # noqa: E402 (after the thread limits)
import torch  # noqa: E402
from arms import (  # noqa: E402
    ARMS,
    LM_SWEEP,
    PEER_SCALE,
    SWEEP,
    Arm,
    Decoded,
    Words,
    adapted,
    decode,
    decoder_of,
    fields_of,
    sweep_of,
)
from frames import Encodings, kept, utterances  # noqa: E402
from lists import DEV, LIBRISPEECH, Task, distractors, examples_of, librispeech, task, texts_of  # noqa: E402
from scores import Scores, summary  # noqa: E402

import sltcore  # noqa: E402
from slt_ctc_personalization.language_model.arpa import write_arpa  # noqa: E402
from slt_ctc_personalization.language_model.build_lm import estimate  # noqa: E402
from slt_ctc_personalization.language_model.english import LM_FILE  # noqa: E402
from slt_ctc_personalization.language_model.sphinx_lm import read_sphinx  # noqa: E402
from slt_ctc_personalization.lexicon.lexicon import pocketsphinx_file  # noqa: E402
from slt_ctc_personalization.phrases.list_cost import cost  # noqa: E402

BASES = Path(__file__).parent / "bases"
SIZES = (0, 10, 100, 1_000, 10_000)
TUNED_WITH = 100
UNRELATED = 1_000
FOR_EVERY_SEED = ("100", "unrelated")
PEER_MOST = {"pyctcdecode": 900, "ctc-beam-decoder": 20_000}
"""Longest list of each; pyctcdecode takes seconds for each utterance beyond, so it has the listed words and 100 others."""


@dataclass
class Study:
    """One language: its bundles, words and kept results."""

    language: str
    runs: Path
    out: Path
    seeds: Sequence[int]
    sizes: Sequence[int]
    tasks: dict[str, Task] = field(default_factory=dict)

    def task(self, part: str) -> Task:
        """Utterances and listed words of dev or test."""
        if part not in self.tasks:
            self.tasks[part] = librispeech()[0] if part == LIBRISPEECH else task(self.language, part)
        return self.tasks[part]

    def words(self, part: str, size: int) -> list[str]:
        """The listed words and so many distractors."""
        return [*self.task(part).words, *distractors(self.language, size)]

    @cached_property
    def own_lists(self) -> list[list[str]]:
        """The published list of each utterance of read speech."""
        return librispeech()[1]

    @cached_property
    def phones(self) -> sltcore.Pipeline:
        """The base with its phone head, which also gives the layer that adapters read (the middle one)."""
        pipeline = sltcore.load(str(BASES / self.language))
        encoder = pipeline.parts["encoder"]
        encoder.keep_layers([encoder.depths // 2])
        return pipeline

    def encodings(self, part: str) -> Encodings:
        """What the base hears."""
        path = self.out / f"frames-{part}.pt"
        return kept(path, self.phones, self.phones.parts["encoder"], self.task(part).examples)

    @cached_property
    def lm(self) -> dict[str, Any]:
        """The language model of all arms that have one: general English, or the corpus' own training texts."""
        if self.language == "en":
            return {"lm": "english"}
        return {"lm_file": str(self.arpa)}

    @cached_property
    def arpa(self) -> Path:
        """The same model as a file, for the peers."""
        path = self.out / "lm.arpa"
        if not path.exists():
            if self.language == "en":
                model = read_sphinx(pocketsphinx_file(LM_FILE))
                model.log10_p[0][0] = model.log10_p[0][3:].min()  # unknown words, as `english_lm` does
                write_arpa(model, path)
            else:
                texts = texts_of(examples_of(self.language, "train", (0.0, DEV[0])))
                write_arpa(estimate(texts, order=3), path)
        return path

    def bundle(self, arm: Arm, seed: int | None) -> Path:
        """Whose head an arm reads with."""
        if arm.frames == "adapter":
            return self.runs / f"adapter-{self.language}-{seed}" / "bundle"
        return BASES / self.language

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, kept as JSON."""
        path = self.out / f"{name}.json"
        if not path.exists():
            value = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".part").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
            path.with_suffix(".part").rename(path)
        return json.loads(path.read_text(encoding="utf-8"))


class Frames:
    """The frames of an arm with a list: the base's, or an adapter's; the last adapted ones are kept."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._key: Any = None
        self._kept: tuple[Any, float] = ((), 0.0)
        self._adapters: dict[int, Any] = {}

    def of(self, arm: Arm, seed: int | None, part: str, words: Words) -> tuple[Any, float]:
        """Batches of frames, and the adapter's CPU seconds."""
        encodings = self.study.encodings(part)
        if arm.frames == "base" or not words:
            return encodings.batches, 0.0
        assert seed is not None
        key = (seed, part, len(words), words[-1] if isinstance(words[-1], str) else "own")
        if key != self._key:
            if seed not in self._adapters:
                pipeline = sltcore.load(str(self.study.bundle(arm, seed)))
                self._adapters = {seed: pipeline.parts["encoder"]}
            self._kept = adapted(self._adapters[seed], encodings, words)
            self._key = key
        return self._kept


def lm_settings(study: Study, frames: Frames) -> dict[str, Any]:
    """The weights of the language model, chosen on dev without a list by WER."""

    def choose() -> Mapping[str, Any]:
        found = []
        for weight, bonus in LM_SWEEP:
            fields = study.lm | {"lm_weight": weight, "word_bonus": bonus}
            said = run_arm(study, frames, ARMS["beam-lm"], None, fields, seed=0, part="dev", words=[])
            found.append((summary(study.task("dev"), said.texts)["wer"], weight, bonus))
        best = min(found)
        print("language model:", found, "->", best, flush=True)
        return {"lm_weight": best[1], "word_bonus": best[2], "sweep": found}

    chosen = study.once("lm", choose)
    return study.lm | {"lm_weight": chosen["lm_weight"], "word_bonus": chosen["word_bonus"]}


def run_arm(
    study: Study, frames: Frames, arm: Arm, weight: float | None, lm: Mapping[str, Any], *, seed: int | None,
    part: str, words: Words,
) -> Decoded:  # fmt: skip
    """An arm's texts with a list."""
    batches, adapter_s = frames.of(arm, seed, part, words)
    decoder = decoder_of(study.bundle(arm, seed), fields_of(arm, weight, lm))
    said = decode(decoder, study.encodings(part), batches, words if arm.weighted else [])
    return said._replace(cpu_s=said.cpu_s + adapter_s)


def chosen(task_: Task, found: Sequence[tuple[float, Mapping[str, float]]], base_u_wer: float) -> float:
    """The weight with the best F1 of listed words among those that leave the others as the same search without a list
    has them (1 % relative); where none does, the one that harms least."""
    fine = [entry for entry in found if entry[1]["u_wer"] <= base_u_wer * 1.01]
    if fine:
        return max(fine, key=lambda entry: entry[1]["f1"])[0]
    return min(found, key=lambda entry: entry[1]["u_wer"])[0]


def weights(study: Study, frames: Frames, lm: Mapping[str, Any], only: str = "") -> dict[str, float]:
    """Each arm's weight, chosen on dev with `TUNED_WITH` distractors."""
    words = study.words("dev", TUNED_WITH)
    dev = study.task("dev")

    def tune(name: str, arm: Arm) -> dict[str, Any]:
        base = summary(dev, run_arm(study, frames, arm, None, lm, seed=study.seeds[0], part="dev", words=[]).texts)
        found = []
        for weight in sweep_of(arm):

            def run(weight: float = weight) -> dict[str, float]:
                said = run_arm(study, frames, arm, weight, lm, seed=study.seeds[0], part="dev", words=words)
                return summary(dev, said.texts)

            found.append((weight, study.once(f"sweeps/{name}/{weight}", run)))
        print(name, [(w, round(v["f1"], 1), round(v["u_wer"], 1)) for w, v in found], flush=True)
        return {"weight": chosen(dev, found, base["u_wer"]), "sweep": found, "base": base}

    return {
        name: study.once(f"weights/{name}", lambda name=name, arm=arm: tune(name, arm))["weight"]
        for name, arm in ARMS.items()
        if arm.weighted and (not only or (arm.frames == "base") == (only == "base"))
    }


def lists(study: Study) -> Iterator[tuple[str, list[str]]]:
    """The lists of the test: listed words with more and more distractors, and one without any listed word."""
    for size in study.sizes:
        yield str(size), study.words("test", size)
    yield "unrelated", distractors(study.language, UNRELATED)


def reads_list(arm: Arm) -> bool:
    """Whether a list changes what an arm does."""
    return arm.weighted or arm.frames == "adapter"


def arms_of(only: str) -> Iterator[tuple[str, Arm]]:
    """Those on the base's frames, those on an adapter's, or all."""
    for name, arm in ARMS.items():
        if not only or (arm.frames == "base") == (only == "base"):
            yield name, arm


@dataclass
class Measuring:
    """Texts of every arm at its weight, each computed once."""

    study: Study
    frames: Frames
    lm: Mapping[str, Any]
    tuned: Mapping[str, float]

    def add(self, scores: Scores, name: str, part: str, label: str, words: Words, *, seed: int) -> None:
        """An arm's texts with a list; an arm that reads none counts with every list."""
        arm = ARMS[name]
        label = label if reads_list(arm) else ""

        def run() -> dict[str, Any]:
            listed = words if reads_list(arm) else []
            said = run_arm(
                self.study, self.frames, arm, self.tuned.get(name), self.lm, seed=seed, part=part, words=listed
            )
            return said._asdict()

        found = self.study.once(f"texts/{part}/{name}/{label or 'none'}-{seed}", run)
        scores.add(name, label, seed, Decoded(**found))
        print(part, name, label, seed, scores.line(name, label, seed), flush=True)


def all_arms(study: Study, only: str = "") -> list[Scores]:
    """Every arm with every list, seeds after the first with the lists that the claims are about; English also on read
    speech. `only`: base, adapters."""
    frames = Frames(study)
    lm = lm_settings(study, frames)
    measuring = Measuring(study, frames, lm, weights(study, frames, lm, only))
    scores = Scores(study.task("test"), dict(lists(study)))
    for label, words in lists(study):
        for seed in study.seeds:
            for name, arm in arms_of(only):
                again = arm.frames == "adapter" and label in FOR_EVERY_SEED
                once = seed == study.seeds[0] and (reads_list(arm) or label == str(study.sizes[0]))
                if again or once:
                    measuring.add(scores, name, "test", label, words, seed=seed)
    found = [scores]
    if study.language == "en":
        own = study.own_lists
        found.append(Scores(study.task(LIBRISPEECH), {"own": own}))
        for seed in study.seeds:
            for name, arm in arms_of(only):
                if seed == study.seeds[0] or arm.frames == "adapter":
                    measuring.add(found[-1], name, LIBRISPEECH, "own", own, seed=seed)
    if only != "adapters":
        for part, one in zip(("test", LIBRISPEECH), found, strict=False):
            peer_arms(study, lm, one, part)
    return found


COSTED = ("boosting", "phones", "adapter", "everything", "everything-windowed")


def list_costs(study: Study) -> list[dict[str, Any]]:
    """What it takes to make lists ready: CPU seconds and megabytes, by arm and list."""
    rows = []
    for name in COSTED:
        arm = ARMS[name]
        pipeline = sltcore.load(str(study.bundle(arm, study.seeds[0])))
        adapter = pipeline.parts["encoder"] if arm.frames == "adapter" else None
        for label, words in lists(study):
            row: dict[str, Any] = {"arm": name, "list": label, "phrases": len(words), "seconds": 0.0, "mb": 0.0}
            if arm.weighted:
                decoder = decoder_of(study.bundle(arm, study.seeds[0]), fields_of(arm, 1.0, study.lm))
                row["seconds"], size = cost([decoder], words)
                row["mb"] = size / 1e6
            if adapter is not None:
                begin = time.process_time()
                adapter.prepare({"phrases": words})
                row["seconds"] += time.process_time() - begin
                row["mb"] += sum(tensor.nbytes for tensor in adapter.tables([words])[0]) / 1e6
            rows.append(row)
    return rows


def peer_arms(study: Study, lm: Mapping[str, Any], scores: Scores, part: str) -> None:
    """The peers' hotwords on the base's log-probabilities, their weight from the same sweep."""
    decoder = decoder_of(study.bundle(ARMS["greedy"], None), {"use": "ctc-beam"})
    names = ["", *(label if label else " " for label in decoder.vocabulary.labels[1:])]
    settings = {
        "labels": names, "arpa": str(study.arpa), "beam": 100, "prune": -10.0, "token_min": -5.0,
        "lm_weight": lm["lm_weight"], "word_bonus": lm["word_bonus"],
    }  # fmt: skip

    def said(peer: str, part: str, words: Words, weight: float) -> peers_module.Said:
        encodings = study.encodings(part)
        with torch.no_grad():
            values = [torch.from_numpy(decoder.frames(batch)) for batch in encodings.batches]
        log_probs = [x.numpy() for _, x in sorted(utterances(encodings, values), key=lambda entry: entry[0])]
        (found,) = peers_module.decode(peer, log_probs, settings, [(words, weight)])
        return found

    dev, listed = study.task("dev"), study.words("dev", TUNED_WITH)
    for peer in peers_module.PEERS:

        def tune(peer: str = peer) -> dict[str, Any]:
            found = []
            for weight in (0.0, *(PEER_SCALE * weight for weight in SWEEP)):

                def run(weight: float = weight) -> dict[str, float]:
                    return summary(dev, said(peer, "dev", listed if weight else [], weight).texts)

                found.append((weight, study.once(f"sweeps/{peer}/{weight}", run)))
            print(peer, [(w, round(v["f1"], 1), round(v["u_wer"], 1)) for w, v in found], flush=True)
            return {"weight": chosen(dev, found[1:], found[0][1]["u_wer"]), "sweep": found[1:], "base": found[0][1]}

        weight = study.once(f"weights/{peer}", tune)["weight"]
        for label, words in scores.words.items():
            if max(map(len, words) if label == "own" else (len(words),)) > PEER_MOST[peer]:
                continue

            def run(peer: str = peer, words: Words = words, weight: float = weight) -> Any:
                found = said(peer, part, words, weight)
                return Decoded(found.texts, found.cpu_s)._asdict()

            found = study.once(f"texts/{part}/{peer}/{label}", run)
            scores.add(peer, label, study.seeds[0], Decoded(**found))
            print(part, peer, label, scores.line(peer, label, study.seeds[0]), flush=True)


def main() -> None:
    """Everything for one language."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=("en", "cs"), required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=("base", "adapters"), default="", help="some arms, and no report")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    chosen_ = parser.parse_args()
    study = Study(
        chosen_.language, chosen_.runs, chosen_.out / chosen_.language,
        [int(seed) for seed in chosen_.seeds.split(",")], [int(size) for size in chosen_.sizes.split(",")],
    )  # fmt: skip
    scores = all_arms(study, chosen_.only)
    if chosen_.only:
        return
    from verdicts import write_report

    write_report(study, study.once("costs", lambda: list_costs(study)), *scores)


if __name__ == "__main__":
    main()
