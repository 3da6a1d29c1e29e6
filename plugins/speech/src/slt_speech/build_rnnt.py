"""Builders of the transducer and of its phrases: the only place that sees their configurations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slt_speech.rnnt.decoder import Rnnt
from slt_speech.rnnt.joint import Joint
from slt_speech.rnnt.phrase_boost import PhraseBoost
from slt_speech.rnnt.prediction import PredictionNetwork
from sltcore.ctc import VOCABULARY_FILE, read_vocabulary
from sltcore.errors import PortError, VocabularyError
from sltcore.interfaces import Decoder
from sltcore.vocabulary import Vocabulary, characters

if TYPE_CHECKING:
    from slt_speech.config_rnnt import PhraseBoostConfig, RnntConfig
    from sltcore.plugin import Ports

WHO = "decoder 'rnnt'"


def rnnt(config: RnntConfig, ports: Ports) -> Rnnt:
    """A transducer behind an encoder.

    **Raises** `VocabularyError` when nothing names the labels, `PortError` when the encoder has no width or `boost` no
    step interface.
    """
    d = ports.upstream.attributes.get("d") if ports.upstream is not None else None
    if d is None:
        before = ports.upstream if ports.upstream is not None else "nothing"
        raise PortError(f"{WHO} needs the width d of the encoder before it, but before it stands {before}")
    vocabulary = _given(config.vocabulary, config.characters, ports) or _offered(ports)
    boost = ports.slots.get("boost")
    if boost is not None:
        _check_boost(boost, vocabulary)
    prediction = PredictionNetwork(
        len(vocabulary),
        config.d_prediction,
        kind=config.prediction,
        layers=config.layers,
        context=config.context,
        dropout=config.dropout,
        blank=vocabulary.blank,
    )
    return Rnnt(
        prediction,
        Joint(int(d), config.d_prediction, config.d_joint, len(vocabulary)),
        vocabulary,
        search=config.search,
        beam=config.beam,
        max_symbols=config.max_symbols,
        n_best=config.n_best,
        boost=boost,
        boost_weight=config.boost_weight,
        loss=config.loss,
        window=config.window,
        fastemit=config.fastemit,
        clamp=config.clamp,
    )


def phrase_boost(config: PhraseBoostConfig, ports: Ports) -> PhraseBoost:
    """Phrases in labels of their own, else in those of the decoder in whose slot they stand."""
    return PhraseBoost(_given(config.vocabulary, config.characters, ports), bonus=config.bonus)


def _check_boost(boost: object, vocabulary: Vocabulary) -> None:
    if not isinstance(boost, Decoder) or not boost.has_steps:
        raise PortError(
            f"{WHO}: boost is a {type(boost).__name__}, expected a decoder with the step interface, such as phrase-boost"
        )
    if isinstance(boost, PhraseBoost):
        boost.adopt(vocabulary)
    elif boost.vocabulary is not None and boost.vocabulary.labels != vocabulary.labels:
        raise PortError(
            f"{WHO}: boost {type(boost).__name__} has {len(boost.vocabulary)} labels, which are not its own "
            f"{len(vocabulary)}; both must write with the same labels"
        )


def _given(path: Path | None, letters: str | None, ports: Ports) -> Vocabulary | None:
    """The labels that a config names, or that a bundle has saved."""
    if path is not None and path.is_file():
        return read_vocabulary(path)
    if letters is not None:
        return characters([letters])
    if ports.folder is not None and (ports.folder / VOCABULARY_FILE).is_file():
        return read_vocabulary(ports.folder / VOCABULARY_FILE)
    return None if path is None else read_vocabulary(path)


def _offered(ports: Ports) -> Vocabulary:
    """The labels that the encoder offers."""
    found = ports.offers.get("encoder.vocabulary")
    if not isinstance(found, Vocabulary):
        raise VocabularyError(
            f"{WHO} has no labels: the encoder offers no vocabulary, and neither 'vocabulary' (a JSON file) nor "
            f"'characters' (letters) is given; give one of the two"
        )
    return found
