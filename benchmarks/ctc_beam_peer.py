"""Decodes the log-probabilities of `ctc_beam.py` with one peer, in the peers' environment.

python ctc_beam_peer.py NAME DATA.npz SETTINGS.json

Reads one request a line, {"part", "utterances", "frames", "words", "weight"}, and answers each with one line,
{"seconds": CPU seconds of each utterance, "texts"}.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Decode = Callable[[Any, "list[str] | None", float], str]


def make_decoder(name: str, settings: dict[str, Any]) -> Decode:
    """A function from log-probabilities [t v], words of a list, and their weight to text."""
    labels, beam = settings["labels"], settings["beam"]
    if name in ("pyctcdecode", "ctc-beam-decoder"):
        module = __import__(name.replace("-", "_"))
        arpa, alpha, beta = settings["arpa"], settings["lm_weight"], settings["word_bonus"]
        decoder = module.build_ctcdecoder(labels, arpa, alpha=alpha, beta=beta)
        limits = {"beam_prune_logp": settings["prune"], "token_min_logp": settings["token_min"]}
        return lambda x, words, weight: decoder.decode(
            x, beam_width=beam, hotwords=words, hotword_weight=weight, **limits
        )
    if name == "fast-ctc-decode":
        from fast_ctc_decode import beam_search

        letters, cut = ["-", *labels[1:]], np.exp(settings["token_min"])
        return lambda x, words, weight: beam_search(np.exp(x), letters, beam_size=beam, beam_cut_threshold=cut)[0]
    if name == "flashlight":
        decode = make_flashlight(labels, beam, settings)
        return lambda x, words, weight: decode(x)
    raise SystemExit(f"no peer is named {name}")


def make_flashlight(labels: list[str], beam: int, settings: dict[str, Any]) -> Callable[[Any], str]:
    """flashlight-text's lexicon decoder with the same model; it knows no phrases."""
    from flashlight.lib.text.decoder import CriterionType, LexiconDecoder, LexiconDecoderOptions, SmearingMode, Trie
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    names = ["<blank>", "|", *labels[2:]]
    ids = {letter: index for index, letter in enumerate(labels)}
    words = Dictionary([*settings["words"], "<unk>"])
    lm = KenLM(settings["arpa"], words)
    trie, start = Trie(len(names), 1), lm.start(False)
    for word in settings["words"]:
        index = words.get_index(word)
        trie.insert([*(ids[letter] for letter in word), 1], index, lm.score(start, index)[1])
    trie.smear(SmearingMode.MAX)
    options = LexiconDecoderOptions(
        beam,
        len(names),
        -settings["prune"],
        settings["lm_weight"],
        settings["word_bonus"],
        -np.inf,
        0.0,
        False,
        CriterionType.CTC,
    )
    decoder = LexiconDecoder(options, trie, lm, 1, 0, words.get_index("<unk>"), [], False)

    def decode(x: Any) -> str:
        found = decoder.decode(x.ctypes.data, x.shape[0], x.shape[1])[0]
        return " ".join(words.get_entry(word) for word in found.words if word >= 0)

    return decode


def main() -> None:
    """Answer requests until the input ends; the first one is preceded by an utterance that warms up."""
    logging.disable(logging.WARNING)
    name, data_file, settings_file = sys.argv[1:4]
    with open(settings_file, encoding="utf-8") as file:
        settings = json.load(file)
    data = np.load(data_file)
    parts = {part: data[part] for part in data.files}
    decode = make_decoder(name, settings)
    decode(parts["test"][0], None, 0.0)
    for line in sys.stdin:
        request = json.loads(line)
        seconds, texts = [], []
        for x in parts[request["part"]][: request["utterances"], : request["frames"]]:
            begin = time.process_time()
            text = decode(x, request["words"] or None, request["weight"])
            seconds.append(time.process_time() - begin)
            texts.append(" ".join(text.split()))
        print(json.dumps({"seconds": seconds, "texts": texts}), flush=True)


if __name__ == "__main__":
    main()
