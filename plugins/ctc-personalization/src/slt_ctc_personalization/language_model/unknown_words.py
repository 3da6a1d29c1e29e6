"""What a language model gives to words that it does not list, where its file says nothing of them."""

from __future__ import annotations

import numpy as np

from slt_ctc_personalization.language_model.arpa import MARKERS
from slt_ctc_personalization.language_model.ngram import KENLM, KENLM_UNIGRAMS, LAYOUT, LN10, UNKNOWN, NgramModel

NEVER = -98.9
"""log10 p from which on a word counts as never said: -99 is SRILM's zero, -100 KenLM's for a model without `<unk>`."""


def with_unknown_words(model: NgramModel) -> NgramModel:
    """The model, where words that it does not list are as probable as the least probable word that it does.

    Only where it gives them nothing, as a file without `<unk>` does: 230 nats would keep the names of a phrase list from
    ever being written, whatever their bonus. A model with an `<unk>` of its own comes back as it is.

    **Source**: the choice for the English model of CMU Sphinx, which has no `<unk>` either. Deviation from KenLM and
    pyctcdecode, where such words get log10 p = -100. A KenLM file is mapped privately and only that mapping is changed.
    """
    log_probs = model.unigram_log_probs()
    listed = log_probs[len(MARKERS) :]
    said = listed[listed > NEVER * LN10]
    if log_probs[UNKNOWN] > NEVER * LN10 or not len(said):
        return model
    rarest = np.float32(said.min())
    tables = model.tables
    if tables.sizes[LAYOUT] == KENLM:
        place = int(tables.sizes[KENLM_UNIGRAMS]) + 2 * int(tables.kenlm_ids[UNKNOWN])
        tables.raw[place] = np.float32(rarest / LN10).view(np.uint32)
        return model
    unigrams = tables.unigrams.copy()
    unigrams[UNKNOWN] = (unigrams[UNKNOWN] >> 32 << 32) | int(rarest.view(np.uint32))
    return NgramModel(model.words, model.order, tables._replace(unigrams=unigrams), source=model.source)
