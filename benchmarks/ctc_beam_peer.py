"""Decodes the log-probabilities of `ctc_beam.py` with one peer, in the peers' environment, and prints JSON.

python ctc_beam_peer.py NAME DATA.npz REQUEST.json
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def make_decoder(name: str, request: dict[str, Any]) -> Callable[[Any], str]:
    """A function from log-probabilities [t v] to text."""
    labels, beam, words = request["labels"], request["beam"], request["phrases"] or None
    if name in ("pyctcdecode", "ctc-beam-decoder"):
        module = __import__(name.replace("-", "_"))
        decoder = module.build_ctcdecoder(
            labels, request["arpa"], alpha=request["lm_weight"], beta=request["word_bonus"]
        )
        limits = {"beam_prune_logp": request["prune"], "token_min_logp": request["token_min"]}
        weight = request["phrase_bonus"]
        return lambda x: decoder.decode(x, beam_width=beam, hotwords=words, hotword_weight=weight, **limits)
    if name == "fast-ctc-decode":
        from fast_ctc_decode import beam_search

        letters = ["-", *labels[1:]]
        return lambda x: beam_search(
            np.exp(x), letters, beam_size=beam, beam_cut_threshold=np.exp(request["token_min"])
        )[0]
    if name == "flashlight":
        return make_flashlight(labels, beam, request)
    raise SystemExit(f"no peer is named {name}")


def make_flashlight(labels: list[str], beam: int, request: dict[str, Any]) -> Callable[[Any], str]:
    """flashlight-text's lexicon decoder with the same model; it knows no phrases."""
    from flashlight.lib.text.decoder import CriterionType, LexiconDecoder, LexiconDecoderOptions, SmearingMode, Trie
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    names = ["<blank>", "|", *labels[2:]]
    ids = {letter: index for index, letter in enumerate(labels)}
    words = Dictionary([*request["words"], "<unk>"])
    lm = KenLM(request["arpa"], words)
    trie, start = Trie(len(names), 1), lm.start(False)
    for word in request["words"]:
        index = words.get_index(word)
        trie.insert([*(ids[letter] for letter in word), 1], index, lm.score(start, index)[1])
    trie.smear(SmearingMode.MAX)
    options = LexiconDecoderOptions(
        beam,
        len(names),
        -request["prune"],
        request["lm_weight"],
        request["word_bonus"],
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
    """Decode once to warm up, then each utterance `repeats` times."""
    logging.disable(logging.WARNING)
    name, data, request_file = sys.argv[1:4]
    with open(request_file, encoding="utf-8") as file:
        request = json.load(file)
    log_probs = np.load(data)["log_probs"][: request["utterances"]]
    started = time.process_time()
    decode = make_decoder(name, request)
    load_s = time.process_time() - started
    decode(log_probs[0])
    times, texts = [], []
    for repeat in range(request["repeats"]):
        begin = time.process_time()
        found = [" ".join(decode(x).split()) for x in log_probs]
        times.append((time.process_time() - begin) / len(log_probs))
        texts = found if repeat == 0 else texts
    print(json.dumps({"load_s": load_s, "seconds": times, "texts": texts}))


if __name__ == "__main__":
    main()
