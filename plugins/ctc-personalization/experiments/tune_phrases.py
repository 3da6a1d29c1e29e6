"""Choose `phrase_bonus` for English words on training prompts: word error rate and F1 on listed rare words.

    python plugins/ctc-personalization/experiments/tune_phrases.py [--bonus 0 0.5 1 1.5 2 3]

Material: the 461 training prompts of `asterisk-en`; the 82 held-out ones are never read. The list holds every word of
these prompts that is not among the 3,000 most frequent of the language model, and as many rare words of the dictionary
that no prompt holds. A wrong word of the list counts against precision.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import jiwer

import sltcore
from slt_ctc_personalization.language_model.english import english_lexicon, english_lm, frequent_words
from slt_ctc_personalization.lexicon.lexicon import cmu_dictionary
from sltcore.data import rows
from sltcore.data.normalization import normalized

SPEC = {"slt": 1, "kind": "pipeline", "encoder": "hama-conformer", "decoder": {"use": "ctc-beam", "lexicon": "english"}}
FREQUENT = 3000


def word_list(texts: list[str]) -> tuple[list[str], set[str]]:
    """The rare words of the texts with as many distractors, and the rare words alone."""
    common = set(frequent_words(english_lm(), cmu_dictionary(), size=FREQUENT))
    spoken = {word for text in texts for word in text.split()}
    rare = sorted(word for word in spoken - common if len(word) > 3 and word in cmu_dictionary())
    others = sorted(word for word in set(english_lexicon(size=20_000)) - common - spoken if len(word) > 3)
    return rare + random.Random(0).sample(others, len(rare)), set(rare)


def f1(spoken: list[str], heard: list[str], listed: set[str]) -> tuple[float, float, float]:
    """Precision, recall and F1 of listed words by aligned positions, in %."""
    output = jiwer.process_words(spoken, heard)
    true = false = missed = 0
    for reference, hypothesis, chunks in zip(output.references, output.hypotheses, output.alignments, strict=True):
        for chunk in chunks:
            said = reference[chunk.ref_start_idx : chunk.ref_end_idx]
            got = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
            if chunk.type == "equal":
                true += sum(word in listed for word in said)
            else:
                missed += sum(word in listed for word in said)
                false += sum(word in listed for word in got)
    precision, recall = true / max(1, true + false), true / max(1, true + missed)
    return 100 * precision, 100 * recall, 100 * 2 * precision * recall / max(1e-9, precision + recall)


def main() -> None:
    """Print one line for each bonus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bonus", type=float, nargs="+", default=[0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
    arguments = parser.parse_args()
    prompts = [row for row in rows("asterisk-en") if row.split == "train"]
    spoken = [row.text for row in prompts]
    phrases, rare = word_list(spoken)
    print(f"{len(prompts)} prompts, {len(phrases)} words listed, {len(rare)} of them spoken")
    print("bonus  WER    precision  recall  F1 (listed words, %)")
    for bonus in arguments.bonus:
        pipeline = sltcore.load(SPEC, overrides=[f"decoder.phrase_bonus={bonus}"])
        said = pipeline([Path(row.path) for row in prompts], phrases=phrases)
        heard = [normalized(nbest.text, "en") or "" for nbest in said]
        precision, recall, score = f1(spoken, heard, set(phrases))
        print(
            f"{bonus:<6g} {100 * jiwer.wer(spoken, heard):<6.2f} {precision:<10.1f} {recall:<7.1f} {score:.1f}",
            flush=True,
        )
    plain = sltcore.load(SPEC)([Path(row.path) for row in prompts])
    heard = [normalized(nbest.text, "en") or "" for nbest in plain]
    precision, recall, score = f1(spoken, heard, set(phrases))
    print(f"no list {100 * jiwer.wer(spoken, heard):<5.2f} {precision:<10.1f} {recall:<7.1f} {score:.1f}")


if __name__ == "__main__":
    main()
