"""Builder of `contextual-adapter`: the only place that sees its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slt_ctc_personalization.adapter.catalogue import ByteScript, Catalogue, LabelScript, PhoneScript, Script
from slt_ctc_personalization.adapter.contextual_adapter import ContextualAdapter, depths_of
from slt_ctc_personalization.adapter.list_sampling import ListSampler
from slt_ctc_personalization.adapter.phrase_attention import PhraseAttention
from slt_ctc_personalization.phones.articulation import IPA
from slt_ctc_personalization.phones.g2p import Phonemes
from sltcore import ctc
from sltcore.errors import PortError, VocabularyError
from sltcore.vocabulary import Vocabulary, characters

if TYPE_CHECKING:
    from slt_ctc_personalization.adapter.config_adapter import ContextualAdapterConfig, ListSamplingConfig
    from sltcore.interfaces import Encoder
    from sltcore.plugin import Ports

WHO = "encoder 'contextual-adapter'"
MEGABYTE = 2**20


def contextual_adapter(config: ContextualAdapterConfig, ports: Ports) -> ContextualAdapter:
    """The adapter that a spec describes, on the encoder in its slot.

    **Raises** `PortError` for a base without a width or a depth that it does not have, `VocabularyError` where phrases are to
    be written in labels and there are none.
    """
    base: Encoder = ports.slots["encoder"]
    d_model = base.produces.attributes.get("d")
    if base.produces.type != "Encoded" or d_model is None:
        raise PortError(f"{WHO}: its encoder produces {base.produces}, expected Encoded with a width d")
    own, offered = _own_labels(config, ports), _offered_labels(base, ports)
    layers = config.layers or default_layers(base)
    script = _script(config, own or offered)
    attention = PhraseAttention(
        Catalogue(script.size, config.embedding, hidden=config.hidden),
        int(d_model),
        layers=len(depths_of(base, layers)),
        combine=config.combine,
        width=config.width,
        heads=config.heads,
        attended=config.attended,
        context_frames=config.context_frames,
        context_step=config.context_step,
    )
    return ContextualAdapter(
        base,
        attention,
        script=script,
        layers=layers,
        sampler=_sampler(config.lists) if config.sample_lists else None,
        keep_base_bytes=config.keep_base_mb * MEGABYTE,
        vocabulary=own,
    )


def default_layers(base: Encoder) -> tuple[int, ...]:
    """The depth in the middle and the last; the output alone where there are fewer than two."""
    deepest = base.depths or 0
    return (deepest // 2, -1) if deepest >= 2 else (-1,)


def _own_labels(config: ContextualAdapterConfig, ports: Ports) -> Vocabulary | None:
    """The labels that the config names, or those that the bundle kept of it."""
    if config.characters is not None:
        return characters([config.characters])
    saved = None if ports.folder is None else ports.folder / ctc.VOCABULARY_FILE
    if config.vocabulary is not None and (config.vocabulary.is_file() or saved is None):
        return ctc.read_vocabulary(config.vocabulary)
    return ctc.read_vocabulary(saved) if saved is not None and saved.is_file() else None


def _offered_labels(base: Encoder, ports: Ports) -> Vocabulary | None:
    offered: Any = base.offers().get("vocabulary")
    if offered is None:  # a base that wraps another one
        found = {id(value): value for name, value in ports.offers.items() if name.endswith(".vocabulary")}
        offered = next(iter(found.values())) if len(found) == 1 else None
    return offered if isinstance(offered, Vocabulary) else None


def _script(config: ContextualAdapterConfig, labels: Vocabulary | None) -> Script:
    kind, language = None if labels is None else labels.kind, config.language
    if config.spelling == "phones" or (config.spelling == "auto" and kind == "phones"):
        return _phone_script(language)
    if config.spelling == "characters" or (config.spelling == "auto" and kind not in ("characters", "subwords")):
        return ByteScript()
    if labels is None or kind == "phones":
        have = "phones, which spell no text" if kind == "phones" else "no labels"
        raise VocabularyError(
            f"{WHO}: spelling: labels needs letters or sub-words, but its encoder offers {have}; give vocabulary or "
            f"characters, or set spelling: {'phones' if kind == 'phones' else 'characters'}"
        )
    return LabelScript(labels)


def _phone_script(language: str) -> PhoneScript:
    """Phones as the CMU dictionary has them for English, else those of the language as IPA."""
    if language.partition("-")[0].lower() == "en":
        return PhoneScript()
    return PhoneScript(IPA, Phonemes(language, IPA).pronounce)


def _sampler(lists: ListSamplingConfig) -> ListSampler:
    return ListSampler(
        lists.rare_texts,
        lists.least_letters,
        most_words=lists.most_words,
        keep=lists.keep,
        no_own=lists.no_own,
        empty=lists.empty,
        distractors=lists.distractors,
    )
