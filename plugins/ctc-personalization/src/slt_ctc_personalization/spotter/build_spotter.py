"""Builder of `ctc-spotter`: the only place that sees its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.lexicon.confusions import load_confusions
from slt_ctc_personalization.lexicon.lexicon_trie import map_labels
from slt_ctc_personalization.phrases.build_spellers import make_speller
from slt_ctc_personalization.spotter.ctc_spotter import CtcSpotter, Replacement
from slt_ctc_personalization.spotter.spotter import Spotter
from sltcore import ctc
from sltcore.errors import VocabularyError
from sltcore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from slt_ctc_personalization.spotter.config_spotter import CtcSpotterConfig
    from sltcore.plugin import Ports

Frames = npt.NDArray[np.float32]


class Tuned(NamedTuple):
    """Values of the fields that a spec leaves empty."""

    context_weight: float
    threshold: float
    beam: float
    missed_border: float


LABELS = Tuned(context_weight=3.0, threshold=0.0, beam=7.0, missed_border=3.0)
"""Letters and sub-words: the context weight and the beam are those of the paper."""
# Phones: chosen on the training prompts of asterisk-en, one voice in a studio; what they cost in false hits
# elsewhere is not measured, so a list for other recordings may want another threshold.
PHONES_HEARD = Tuned(context_weight=1.5, threshold=1.4, beam=4.0, missed_border=2.0)
PHONES_MEANT = Tuned(context_weight=1.0, threshold=1.0, beam=4.0, missed_border=1.0)


def ctc_spotter(config: CtcSpotterConfig, ports: Ports) -> CtcSpotter:
    """**Raises** `VocabularyError` when nothing names the labels, `PortError` when the head does not fit."""
    head = ctc.choose_head(ports, who="decoder 'ctc-spotter'", vocabulary=config.vocabulary, letters=config.characters)
    heard = _heard(config, head.vocabulary)
    tuned = LABELS
    if head.vocabulary.kind == "phones":
        tuned = PHONES_HEARD if heard.to_frames is None else PHONES_MEANT
    weight = _chosen(config.context_weight, tuned.context_weight)
    spotter = Spotter(
        heard.names,
        blank=heard.blank,
        word_boundary=heard.boundary,
        context_weight=weight,
        threshold=_chosen(config.threshold, tuned.threshold),
        beam=_chosen(config.beam, tuned.beam),
        blank_skip=config.blank_skip,
        missed_border=_chosen(config.missed_border, tuned.missed_border),
        settle=config.settle,
    )
    speller = make_speller(
        head.vocabulary,
        weight,
        names=heard.names,
        boundary=heard.boundary,
        language=config.language,
    )
    replacement = Replacement(greedy_weight=config.greedy_weight, overlap=config.overlap)
    return CtcSpotter(head, spotter, speller=speller, replacement=replacement, to_frames=heard.to_frames)


def _chosen(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


class _Heard(NamedTuple):
    """The labels of the spotter: the head's own, or the phones that confusions map them to."""

    names: tuple[str, ...]
    blank: int
    boundary: int | None
    to_frames: Callable[[Frames], Frames] | None = None


def _heard(config: CtcSpotterConfig, vocabulary: Vocabulary) -> _Heard:
    own = _Heard(vocabulary.labels, vocabulary.blank, vocabulary.boundary)
    phones = vocabulary.kind == "phones" and config.language.startswith("en")
    if config.confusions == "none" or (config.confusions == "auto" and not phones):
        return own
    try:
        found = load_confusions(vocabulary.labels)
    except VocabularyError:
        if config.confusions == "auto":
            return own
        raise

    def mapped(frames: Frames) -> Frames:
        return map_labels(frames, found.log_map)

    return _Heard(found.labels, found.blank, found.boundary, mapped)
