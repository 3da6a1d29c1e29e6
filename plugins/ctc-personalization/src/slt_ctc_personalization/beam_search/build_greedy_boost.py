"""Builder of `ctc-greedy-boost`: the only place that sees its configuration."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slt_ctc_personalization.beam_search.ctc_greedy_boost import CtcGreedyBoost
from slt_ctc_personalization.beam_search.search import BeamSearch
from slt_ctc_personalization.phrases.build_spellers import make_speller
from sltcore import ctc

if TYPE_CHECKING:
    from slt_ctc_personalization.beam_search.config_greedy_boost import CtcGreedyBoostConfig
    from sltcore.plugin import Ports


def ctc_greedy_boost(config: CtcGreedyBoostConfig, ports: Ports) -> CtcGreedyBoost:
    """**Raises** `VocabularyError` when nothing names the labels, `PortError` when the head does not fit."""
    who = "decoder 'ctc-greedy-boost'"
    head = ctc.choose_head(ports, who=who, vocabulary=config.vocabulary, letters=config.characters)
    vocabulary = head.vocabulary
    search = BeamSearch(
        vocabulary.labels,
        blank=vocabulary.blank,
        word_boundary=vocabulary.boundary,
        excluded=tuple(sorted(vocabulary.special)),
        boosting=config.boosting,
        depth_scaling=config.depth_scaling,
        threads=config.threads,
    )
    speller = make_speller(
        vocabulary,
        config.phrase_bonus,
        names=vocabulary.labels,
        boundary=vocabulary.boundary,
        language=config.language,
        segmentations=config.segmentations,
    )
    return CtcGreedyBoost(head, search, speller=speller, threads=config.threads or os.cpu_count() or 1)
