"""Builder of what `ctc-beam` hears of phrases: which sources a pipeline has, and which of them are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from slt_ctc_personalization.adapter.attention_supervision import PHRASE_ATTENTION
from slt_ctc_personalization.evidence.phrase_evidence import EvidenceReader, PhoneSource
from slt_ctc_personalization.phones.g2p import Phonemes
from slt_ctc_personalization.phrases.phrases import Phrase
from slt_ctc_personalization.phrases.spelling import Entry, Speller
from slt_ctc_personalization.spotter.spotter import Spotter
from sltcore.errors import PortError
from sltcore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from slt_ctc_personalization.beam_search.config import CtcBeamConfig
    from sltcore.plugin import Ports

WHO = "decoder 'ctc-beam'"
PHONE_VOCABULARY, PHONE_LANGUAGE = "phone_vocabulary", "phone_language"
NEEDY = ("utterance", "windowed")
"""Kinds of boosting that pay a phrase by what is heard of it."""


def make_evidence(
    config: CtcBeamConfig,
    ports: Ports,
    *,
    vocabulary: Vocabulary,
    names: Sequence[str],
    blank: int,
    boundary: int | None,
    excluded: Iterable[int],
) -> EvidenceReader | None:
    """The reader that a config asks for; None where boosting needs none.

    `names`, `blank`, `boundary` and `excluded` describe the labels that the search reads. **Raises** `PortError` when the pipeline has no
    such source.
    """
    if config.boosting not in NEEDY:
        return None
    attention = has_attention(ports)
    phones = _offered(ports, PHONE_VOCABULARY)
    own = vocabulary.kind == "phones"
    wanted = config.evidence
    if wanted in ("attention", "both") and not attention:
        raise PortError(
            f"{WHO}: evidence: {wanted} reads an adapter's attention, but no encoder before it offers one; wrap it in "
            f"encoder: {{use: contextual-adapter}}, or choose evidence: auto"
        )
    if wanted in ("phones", "both") and phones is None and not own:
        raise PortError(
            f"{WHO}: evidence: {wanted} reads phones, but no encoder before it offers a phone_vocabulary and the head's labels are "
            f"{vocabulary.kind}; use encoder: {{use: phone-head}} or a recogniser of phones, or choose evidence: auto"
        )
    if not attention and phones is None and not own:
        raise PortError(
            f"{WHO}: boosting: {config.boosting} pays a phrase by what is heard of it, but nothing here hears phrases; use encoder "
            f"contextual-adapter or phone-head, a recogniser of phones, or boosting: fixed"
        )
    source = None
    if wanted != "attention" and phones is not None:
        language = _offered(ports, PHONE_LANGUAGE) or config.language
        blank, boundary, excluded = phones.blank, phones.boundary, phones.special
        source = _source(config, language, phones.labels, blank=blank, boundary=boundary, special=excluded, own=False)
    elif wanted != "attention" and own:
        source = _source(config, config.language, names, blank=blank, boundary=boundary, special=excluded, own=True)
    threads = config.threads
    return EvidenceReader(
        attention=attention and wanted != "phones",
        phones=source,
        threads=threads if threads is not None else processors(),
    )


def has_attention(ports: Ports) -> bool:
    """Whether an encoder offers `phrase_attention`."""
    return bool(_offered(ports, PHRASE_ATTENTION))


def processors() -> int:
    """How many processors there are."""
    import os

    return os.cpu_count() or 1


def _offered(ports: Ports, name: str) -> Any:
    return next((value for path, value in ports.offers.items() if path.rpartition(".")[2] == name), None)


def _source(
    config: CtcBeamConfig,
    language: str,
    names: Sequence[str],
    *,
    blank: int,
    boundary: int | None,
    special: Iterable[int],
    own: bool,
) -> PhoneSource:
    spotter = Spotter(
        names,
        blank=blank,
        word_boundary=boundary,
        context_weight=config.spotter_context_weight,
        threshold=config.spotter_threshold,
    )
    phonemes = Phonemes(language, names, boundary=boundary, excluded={blank, *special})
    return PhoneSource(spotter, phone_spelling(phonemes), own=own)


class _SaidSpeller(Speller):
    """Every way that a phrase is said, and as words that run together."""

    def __init__(self, phonemes: Phonemes) -> None:
        super().__init__(0.0)
        self.phonemes = phonemes

    def spell(self, entry: Entry) -> Phrase:
        return Phrase(entry.text, 0.0, self.phonemes.phone_paths(entry))


def phone_spelling(phonemes: Phonemes) -> Callable[[Any], list[Sequence[Sequence[int]]]]:
    """From a list of phrases to the label paths of each; **raises** `ContextError` naming those that cannot be said."""
    speller = _SaidSpeller(phonemes)

    def spell(phrases: Any) -> list[Sequence[Sequence[int]]]:
        return [phrase.paths for phrase in speller.phrases(phrases)]

    return spell
