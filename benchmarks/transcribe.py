"""How many words does the shipped pipeline get wrong on real recordings, beside pocketsphinx, and at what cost?

    python benchmarks/transcribe.py [--json FILE] [--check] [--spec examples/transcribe.yaml] [--set PATH=VALUE]...

The 82 held-out prompts (497 words, 3.7 min, one voice) of the corpus `asterisk-en`; nothing was trained, tuned or chosen
on them. Word and character error rates with 95 % bootstrap intervals over the prompts' texts, the paired difference to
pocketsphinx with the settings and the model that its package carries, and CPU time on one core for a second of audio
(the recordings are read before). Then the held-out lines of `flight-of-the-amazon-queen` (632 lines, 27 min, roles that
are not in its training part), beside the same pipeline with the pretrained weights as their package carries them.
`--check` prints each bar with its figure and exits 1 when one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import jiwer
import numpy as np
import torch

import sltcore
from sltcore.audio import read_audio
from sltcore.data.normalization import normalized
from sltcore.data.tables import rows
from sltcore.experiment.bootstrap import interval, paired_difference
from sltcore.interfaces.metric import Value

SPEC = Path(__file__).resolve().parent.parent / "examples" / "transcribe.yaml"
CORPUS, RATE = "asterisk-en", 16000
GAME = "flight-of-the-amazon-queen"
BEFORE = {
    "slt": 1,
    "kind": "pipeline",
    "encoder": "hama-conformer",
    "decoder": {"use": "ctc-beam", "lexicon": "english"},
}
PROMPTS, WORDS = 82, 497  # of the split's rule; another corpus version would give other figures
WER_BAR, REAL_TIME_BAR, GAIN_BAR = 20.0, 0.05, 20.0
SEED, REPLICATES = 0, 10_000

Stats = np.ndarray[Any, np.dtype[np.float64]]


def held_out() -> tuple[list[str], list[np.ndarray[Any, Any]]]:
    """Words and samples of the held-out prompts."""
    chosen = [row for row in rows(CORPUS) if row.split == "test"]
    texts = [row.text for row in chosen]
    found = len(texts), sum(len(text.split()) for text in texts)
    if found != (PROMPTS, WORDS):
        sys.exit(
            f"the held-out part of {CORPUS} is {PROMPTS} prompts with {WORDS} words, here {found}; other packages?"
        )
    return texts, [np.asarray(read_audio(row.path, RATE).samples) for row in chosen]


def game_lines() -> tuple[list[str], list[np.ndarray[Any, Any]]]:
    """Words and samples of the game's held-out lines."""
    chosen = [row for row in rows(GAME) if row.split == "test"]
    sounds = [{"bytes": row.data, "path": row.path} if row.data else row.path for row in chosen]
    return [row.text for row in chosen], [np.asarray(read_audio(sound, RATE).samples) for sound in sounds]


def errors(texts: list[str], heard: list[str]) -> Stats:
    """Word errors, words, character errors, characters of each prompt: [n 4]."""
    table = []
    for text, hypothesis in zip(texts, heard, strict=True):
        words, letters = jiwer.process_words(text, hypothesis), jiwer.process_characters(text, hypothesis)
        table.append(
            [
                words.substitutions + words.deletions + words.insertions,
                len(text.split()),
                letters.substitutions + letters.deletions + letters.insertions,
                len(text),
            ]
        )
    return np.array(table, np.float64)


def rates(stats: Stats) -> dict[str, Value]:
    """Error rates of many prompts together."""
    total = stats.sum(axis=0)
    return {"wer": Value(100 * total[0] / total[1], "%"), "cer": Value(100 * total[2] / total[3], "%")}


def measure(name: str, run: Callable[[list[Any]], list[str]], texts: list[str], audio: list[Any]) -> dict[str, Any]:
    """Error rates with intervals, CPU time for each second of audio, and the texts."""
    run(audio[:1])  # compiles and loads what is loaded once
    start = time.process_time()
    written = run(audio)
    cpu_s = time.process_time() - start
    heard = [normalized(text, "en") or "" for text in written]
    stats = errors(texts, heard)
    generator = np.random.default_rng(SEED)
    bounds = interval(stats, rates, clusters=texts, replicates=REPLICATES, generator=generator)
    seconds = sum(len(samples) for samples in audio) / RATE
    long = np.array([len(text.split()) > 3 for text in texts])
    return {
        "system": name,
        **{key: [round(value.value, 2), round(value.low, 2), round(value.high, 2)] for key, value in bounds.items()},
        "wer_long": round(rates(stats[long])["wer"].value, 2),
        "wer_short": round(rates(stats[~long])["wer"].value, 2),
        "rtf": round(cpu_s / seconds, 4),
        "texts": heard,
        "stats": stats,
    }


def shipped(spec: str | dict[str, Any], overrides: list[str]) -> Callable[[list[Any]], list[str]]:
    """The pipeline of a spec on one core."""
    pipeline = sltcore.load(spec, overrides=[*overrides, "decoder.threads=1"])

    def run(audio: list[Any]) -> list[str]:
        return [result.text for result in pipeline([(samples, RATE) for samples in audio])]

    return run


def encoder_only(spec: str, audio: list[Any]) -> float:
    """CPU time of the encoder for each second of audio, prompt by prompt."""
    from sltcore.types import Waveform

    encoder = sltcore.load(spec).parts["encoder"]
    with torch.inference_mode():
        start = time.process_time()
        for samples in audio:
            waveform = Waveform(torch.from_numpy(samples)[None], torch.tensor([len(samples)]), RATE)
            encoder(waveform, {})
        cpu_s = time.process_time() - start
    return cpu_s / (sum(len(samples) for samples in audio) / RATE)


def pocketsphinx_default() -> Callable[[list[Any]], list[str]]:
    """pocketsphinx as `Decoder()` makes it: its own model, dictionary and trigrams."""
    from pocketsphinx import Decoder

    decoder = Decoder(loglevel="FATAL")

    def run(audio: list[Any]) -> list[str]:
        texts = []
        for samples in audio:
            decoder.start_utt()
            decoder.process_raw((np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
            decoder.end_utt()
            found = decoder.hyp()
            texts.append(found.hypstr if found else "")
        return texts

    return run


def bars_kept(ours: dict[str, Any], peer: dict[str, Any], game: dict[str, Any], before: dict[str, Any]) -> bool:
    """Print each bar with its figure."""
    gain = 100 * (1 - game["wer"][0] / before["wer"][0])
    wer, rtf = ours["wer"][0], ours["rtf"]
    bars = [
        (wer <= WER_BAR, f"WER {wer:.1f} %, at most {WER_BAR}"),
        (rtf <= REAL_TIME_BAR, f"CPU time {rtf:.4f} of the audio's length, at most {REAL_TIME_BAR}"),
        (wer <= peer["wer"][0], f"WER {wer:.1f} %, pocketsphinx {peer['wer'][0]:.1f} %"),
        (gain >= GAIN_BAR, f"game: WER {gain:.1f} % (relative) below the pretrained weights, at least {GAIN_BAR}"),
    ]
    for kept, line in bars:
        print(("ok      " if kept else "MISSED  ") + line)
    return all(kept for kept, _ in bars)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default=str(SPEC))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--texts", action="store_true", help="print each prompt and what was written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts, audio = held_out()
    seconds = sum(len(samples) for samples in audio) / RATE
    print(f"{CORPUS}: {len(texts)} held-out prompts, {WORDS} words, {seconds / 60:.1f} min; one core", flush=True)
    results = [measure(Path(arguments.spec).stem, shipped(arguments.spec, arguments.overrides), texts, audio)]
    results.append(measure("pocketsphinx", pocketsphinx_default(), texts, audio))
    lines, sounds = game_lines()
    results.append(measure("game", shipped(arguments.spec, arguments.overrides), lines, sounds))
    results.append(measure("game, before", shipped(BEFORE, []), lines, sounds))
    print(f"{'':14} {'WER %':>24} {'> 3 words':>10} {'<= 3':>7} {'CER %':>24} {'CPU s / s':>10}")
    for result in results:
        wer, cer = (f"{v[0]:.1f} [{v[1]:.1f}, {v[2]:.1f}]" for v in (result["wer"], result["cer"]))
        print(
            f"{result['system']:14} {wer:>24} {result['wer_long']:>10.1f} {result['wer_short']:>7.1f} {cer:>24} "
            f"{result['rtf']:>10.4f}"
        )
    difference = paired_difference(
        results[0]["stats"],
        results[1]["stats"],
        rates,
        clusters=texts,
        replicates=REPLICATES,
        generator=np.random.default_rng(SEED),
    )["wer"]
    print(f"difference in WER: {difference.value:.1f} points [{difference.low:.1f}, {difference.high:.1f}]")
    encoder_rtf = encoder_only(arguments.spec, audio)
    print(f"of the CPU time the encoder takes {encoder_rtf:.4f}, the search the rest")
    if arguments.texts:
        for text, ours, theirs in zip(texts, results[0]["texts"], results[1]["texts"], strict=True):
            print(f"  said  {text}\n  ours  {ours}\n  peer  {theirs}\n")
    if arguments.json:
        content = {
            "machine": platform.processor() or platform.machine(),
            "prompts": len(texts),
            "words": WORDS,
            "audio_s": round(seconds, 1),
            "encoder_rtf": round(encoder_rtf, 4),
            "wer_difference": [round(value, 2) for value in difference[:3]],
            "game_lines": len(lines),
            "systems": [{key: value for key, value in result.items() if key != "stats"} for result in results],
        }
        arguments.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.check:
        sys.exit(0 if bars_kept(*results) else 1)


if __name__ == "__main__":
    main()
