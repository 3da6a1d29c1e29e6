"""Builders of `phone-head` and `phone-ctc`: the only place that sees their configurations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from slt_ctc_personalization.lexicon.confusions import Confusions, load_confusions
from slt_ctc_personalization.lexicon.lexicon import PHONES, read_dictionary
from slt_ctc_personalization.phones.articulation import IPA
from slt_ctc_personalization.phones.g2p import Phonemes
from slt_ctc_personalization.phones.phone_ctc import PhoneCtc
from slt_ctc_personalization.phones.phone_head import PHONES_FILE, PhoneHead, PhoneReader, read_phones
from sltcore import ctc
from sltcore.errors import DataError, PortError, VocabularyError
from sltcore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from slt_ctc_personalization.phones.config_phones import PhoneCtcConfig, PhoneHeadConfig, PronunciationConfig
    from sltcore.interfaces import Encoder
    from sltcore.plugin import Ports

HEAD, OBJECTIVE = "encoder 'phone-head'", "objective 'phone-ctc'"
BLANK, BOUNDARY = "<blank>", "<wb>"


def phone_head(config: PhoneHeadConfig, ports: Ports) -> PhoneHead:
    """The phone head that a spec describes, on the encoder in its slot.

    **Raises** `PortError` for a base that offers no phones where they are asked for, `VocabularyError` for a file that is
    no vocabulary of phones.
    """
    base: Encoder = ports.slots["encoder"]
    d = base.produces.attributes.get("d")
    if base.produces.type != "Encoded" or d is None:
        raise PortError(f"{HEAD}: its encoder produces {base.produces}, expected Encoded with a width d")
    saved = None if ports.folder is None else ports.folder / PHONES_FILE
    head, labels = _offered(base, ports)
    known = None if labels is None else _confusions(labels)
    chosen = _chosen(config, labels, known)
    common: dict[str, Any] = {"layers": config.layers, "frozen": config.frozen, "language": config.language}
    if chosen == "offered":
        if labels is None or head is None:
            raise PortError(
                f"{HEAD}: phones: offered, but {type(base).__name__} offers no head over phones; choose phones: cmu or ipa, "
                f"and train it with objective phone-ctc"
            )
        return PhoneHead(base, labels, shared=head, **common)
    if chosen == "cmu" and known is not None and head is not None:
        vocabulary = Vocabulary(known.labels, kind="phones", blank=known.blank, boundary=known.boundary)
        return PhoneHead(base, vocabulary, shared=head, log_map=torch.from_numpy(known.log_map), **common)
    if saved is not None and saved.is_file():
        vocabulary = read_phones(saved.read_bytes())
    else:
        vocabulary = _own(config) if chosen == "own" else phone_set(chosen)
    reader = PhoneReader(int(d), len(vocabulary), layers=len(config.layers))
    return PhoneHead(base, vocabulary, reader=reader, **common)


def phone_ctc(config: PhoneCtcConfig, ports: Ports) -> PhoneCtc:
    """The objective that a spec describes. **Raises** `PortError` when its own head does not know the encoder's width."""
    settings, own_language, folder = config.pronunciation, config.language, ports.folder

    def make(vocabulary: Vocabulary, language: str) -> Phonemes:
        return phonemes(settings, vocabulary, language=own_language or language, folder=folder)

    if config.phones == "encoder":
        return PhoneCtc(make)
    d = None if ports.upstream is None else ports.upstream.attributes.get("d")
    if d is None:
        before = ports.upstream if ports.upstream is not None else "nothing"
        raise PortError(
            f"{OBJECTIVE}: phones: {config.phones} needs the width d of the encoder, but before it stands {before}"
        )
    vocabulary = phone_set(config.phones)
    return PhoneCtc(make, reader=PhoneReader(int(d), len(vocabulary)), vocabulary=vocabulary)


def phonemes(
    config: PronunciationConfig, vocabulary: Vocabulary, *, language: str, folder: Path | None = None
) -> Phonemes:
    """The pronunciations that a config describes, in the labels of a vocabulary; a lexicon is read where it lies, else
    from the bundle's `folder`.

    **Raises** `DataError` for a lexicon that is nowhere, and what `Phonemes` raises.
    """
    return Phonemes.of(
        language,
        vocabulary,
        alternatives=config.alternatives,
        voices=config.voices,
        dictionary=None if config.lexicon_file is None else _lexicon(config.lexicon_file, vocabulary, folder),
        guess=config.guess,
    )


def phone_set(name: str) -> Vocabulary:
    """Blank, word boundary, and the phones `cmu` or `ipa`."""
    return Vocabulary([BLANK, BOUNDARY, *(PHONES if name == "cmu" else IPA)], kind="phones", blank=0, boundary=1)


def _lexicon(path: Path, vocabulary: Vocabulary, folder: Path | None) -> Any:
    bundled = None if folder is None else folder / path.name
    found = path if path.is_file() else bundled
    if found is None or not found.is_file():
        raise DataError(f"pronunciation.lexicon_file: there is no file {path}; check the path")
    return read_dictionary(found, phones=vocabulary.labels)


def _offered(base: Encoder, ports: Ports) -> tuple[nn.Module | None, Vocabulary | None]:
    """A head over phones that stands in the base, and its labels."""
    choices = {**{f"encoder.{name}": value for name, value in base.offers().items()}, **ports.offers}
    inside = {id(module) for module in base.modules()} if isinstance(base, nn.Module) else set()
    for place, head in choices.items():
        labels = choices.get(f"{place.rpartition('.')[0]}.vocabulary")
        phones = isinstance(labels, Vocabulary) and labels.kind == "phones"
        if place.endswith(".head") and isinstance(head, nn.Module) and id(head) in inside and phones:
            return head, labels
    return None, None


def _confusions(labels: Vocabulary) -> Confusions | None:
    try:
        return load_confusions(labels.labels)
    except VocabularyError:
        return None


def _chosen(config: PhoneHeadConfig, labels: Vocabulary | None, known: Confusions | None) -> str:
    if config.phones_file is not None:
        return "own"
    if config.phones != "auto":
        return config.phones
    english = config.language.lower().partition("-")[0] == "en"
    if known is not None and not english:
        return "cmu"  # it has labels for sounds of other languages, but writes English ones
    if labels is not None:
        return "offered"
    return "cmu" if english else "ipa"


def _own(config: PhoneHeadConfig) -> Vocabulary:
    assert config.phones_file is not None
    vocabulary = ctc.read_vocabulary(config.phones_file)
    if vocabulary.kind != "phones":
        raise VocabularyError(
            f"{HEAD}: phones_file {config.phones_file.name} is a vocabulary of {vocabulary.kind}, expected phones"
        )
    return vocabulary
