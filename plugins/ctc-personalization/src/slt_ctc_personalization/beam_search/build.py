"""Builder of `ctc-beam`: the only place that sees its configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from slt_ctc_personalization.beam_search.ctc_beam import CtcBeam
from slt_ctc_personalization.beam_search.search import BeamSearch
from slt_ctc_personalization.beam_search.settings import UNKNOWN_WORD_LOG_PROB
from slt_ctc_personalization.evidence.build_evidence import has_attention, make_evidence
from slt_ctc_personalization.language_model.english import LM_FILE, english_lexicon, english_lm
from slt_ctc_personalization.language_model.ngram import NgramModel, load_lm
from slt_ctc_personalization.language_model.unknown_words import with_unknown_words
from slt_ctc_personalization.lexicon.confusions import Confusions, load_confusions
from slt_ctc_personalization.lexicon.lexicon import (
    PHONES,
    Pronunciations,
    cmu_dictionary,
    pocketsphinx_file,
    read_dictionary,
    spelling_lexicon,
)
from slt_ctc_personalization.lexicon.lexicon_trie import LexiconTrie, map_labels
from slt_ctc_personalization.phones.g2p import Phonemes
from slt_ctc_personalization.phrases.build_spellers import make_speller
from slt_ctc_personalization.phrases.spelling import TargetSpeller
from sltcore import ctc
from sltcore.errors import BundleError, DataError, PluginError, PortError, VocabularyError
from sltcore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from slt_ctc_personalization.beam_search.config import CtcBeamConfig
    from slt_ctc_personalization.torch_search.torch_engine import TorchEngine
    from sltcore.plugin import Ports

FloatRows = npt.NDArray[np.float32]

WHO = "decoder 'ctc-beam'"
SOURCES_FILE = "sources.json"
DICTIONARY_FILE = "cmudict-en-us.dict"


class Tuned(NamedTuple):
    """Values of the fields that a spec leaves empty."""

    beam: int
    token_min_log_prob: float
    beam_prune_log_prob: float
    lm_weight: float
    word_bonus: float
    unknown_word_log_prob: float
    phrase_bonus: float


LABELS = Tuned(
    beam=100,
    token_min_log_prob=-5.0,
    beam_prune_log_prob=-10.0,
    lm_weight=0.5,
    word_bonus=1.5,
    unknown_word_log_prob=UNKNOWN_WORD_LOG_PROB,
    phrase_bonus=1.0,
)
# Chosen on training prompts by experiments/tune_search.py and experiments/tune_phrases.py.
ENGLISH_WORDS = Tuned(
    beam=60,
    token_min_log_prob=-8.0,
    beam_prune_log_prob=-11.0,
    lm_weight=0.6,
    word_bonus=-1.5,
    unknown_word_log_prob=UNKNOWN_WORD_LOG_PROB,
    phrase_bonus=0.5,
)


def ctc_beam(config: CtcBeamConfig, ports: Ports) -> CtcBeam:
    """The search that a spec describes.

    **Raises** `VocabularyError` and `PortError` when head, labels, lexicon and language model do not fit together,
    `DataError` for a file that cannot be read.
    """
    head = ctc.choose_head(ports, who=WHO, vocabulary=config.vocabulary, letters=config.characters)
    files = _Files(config, ports)
    labels = _search_labels(config, head.vocabulary)
    lm = _language_model(config, files)
    pronunciations = _pronunciations(config, files, lm, labels.names, size=config.lexicon_words)
    lexicon = None if pronunciations is None else LexiconTrie(pronunciations, labels.names)
    words = head.vocabulary.kind == "phones" and lexicon is not None
    tuned = ENGLISH_WORDS if words else LABELS
    search = BeamSearch(
        labels.names,
        blank=labels.blank,
        word_boundary=labels.boundary,
        excluded=labels.excluded,
        beam=int(_chosen(config.beam, tuned.beam)),
        token_min_log_prob=_chosen(config.token_min_log_prob, tuned.token_min_log_prob),
        beam_prune_log_prob=_chosen(config.beam_prune_log_prob, tuned.beam_prune_log_prob),
        lm=lm,
        lm_unit=config.lm_unit,
        lm_weight=_chosen(config.lm_weight, tuned.lm_weight),
        word_bonus=_chosen(config.word_bonus, tuned.word_bonus),
        unknown_word_log_prob=_chosen(config.unknown_word_log_prob, tuned.unknown_word_log_prob),
        lexicon=lexicon,
        threads=config.threads,
        n_best=config.n_best,
        boosting=config.boosting,
        depth_scaling=config.depth_scaling,
        evidence_floor=config.evidence_floor,
        window_before=_frames(config, ports, config.window_before_s),
        window_after=_frames(config, ports, config.window_after_s),
    )
    evidence = make_evidence(
        config,
        ports,
        vocabulary=head.vocabulary,
        names=labels.names,
        blank=labels.blank,
        boundary=labels.boundary,
        excluded=labels.excluded,
    )
    if config.attention_supervision and not has_attention(ports):
        raise PortError(
            f"{WHO}: attention_supervision teaches an adapter's attention, but no encoder before it offers one; wrap it in "
            f"encoder: {{use: contextual-adapter}}, or leave attention_supervision out"
        )
    bonus = _chosen(config.phrase_bonus, tuned.phrase_bonus)
    speller = make_speller(
        head.vocabulary,
        bonus,
        names=labels.names,
        boundary=labels.boundary,
        pronunciations=pronunciations,
        language=config.language,
        segmentations=config.segmentations,
    )
    files.check_sources(english=config.lexicon == "english" or (lm is not None and config.lm_file is None))
    to_frames = None if labels.log_map is None else _mapper(labels.log_map)
    spell_target = _target_speller(config, head.vocabulary, pronunciations)
    return CtcBeam(
        head,
        search,
        speller=speller,
        to_frames=to_frames,
        spell_target=spell_target,
        files=files.kept,
        evidence=evidence,
        attention_supervision=config.attention_supervision,
        pronounce=_pronounce(config, head.vocabulary),
        torch_engine=_torch_engine(config, search, mapped=labels.log_map is not None),
        always_torch=config.engine == "torch",
    )


def _pronounce(config: CtcBeamConfig, vocabulary: Vocabulary) -> Callable[[str], Sequence[Sequence[str]]] | None:
    """How an adapter's phrases are said where it is taught in phones that are not English."""
    spoken = config.attention_supervision and vocabulary.kind == "phones"
    if not spoken or config.language.partition("-")[0].lower() == "en":
        return None
    return Phonemes.of(config.language, vocabulary).pronounce


def _torch_engine(config: CtcBeamConfig, search: BeamSearch, *, mapped: bool) -> TorchEngine | None:
    """The engine for a GPU, None where the settings are for the compiled one alone; **raises** `PluginError` for those
    where engine: torch is asked for."""
    if config.engine == "compiled":
        return None
    from slt_ctc_personalization.torch_search.torch_engine import TorchEngine

    try:
        if mapped:
            raise PluginError("torch engine: confusions are mapped by the compiled engine only; set confusions: none")
        return TorchEngine(search)
    except PluginError as problem:
        if config.engine == "torch":
            raise PluginError(f"{WHO}: engine: torch: {problem}") from None
        return None


def _frames(config: CtcBeamConfig, ports: Ports, seconds: float) -> int:
    """Seconds of a window as frames of the encoder, rounded; any number where there is no window."""
    if config.boosting != "windowed":
        return 0
    shift_s = None if ports.upstream is None else ports.upstream.attributes.get("frame_shift_s")
    if not shift_s:
        raise PortError(
            f"{WHO}: boosting: windowed has windows in seconds, but the stage before it, {ports.upstream}, does not say its "
            f"frame_shift_s; have its port say so, or choose boosting: utterance"
        )
    return round(seconds / shift_s)


def _target_speller(
    config: CtcBeamConfig, vocabulary: Vocabulary, pronunciations: Pronunciations | None
) -> TargetSpeller | None:
    """How texts become phones for training; None where the labels spell words themselves."""
    if vocabulary.kind != "phones" or pronunciations is None:
        return None
    # The search is kept to frequent words; what is learned from is not.
    return TargetSpeller(cmu_dictionary() if config.lexicon == "english" else pronunciations, vocabulary)


def _chosen(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


class _Labels(NamedTuple):
    """The labels that the search reads: the head's own, or the phones that confusions map them to."""

    names: Sequence[str]
    blank: int
    boundary: int | None
    excluded: tuple[int, ...]
    log_map: FloatRows | None = None


def _search_labels(config: CtcBeamConfig, vocabulary: Vocabulary) -> _Labels:
    wanted = config.confusions
    with_words = config.lexicon != "none" or config.lexicon_file is not None
    if wanted == "auto":
        wanted = "hama-english" if with_words and vocabulary.kind == "phones" and _knows_english(vocabulary) else "none"
    if wanted == "none":
        return _Labels(vocabulary.labels, vocabulary.blank, vocabulary.boundary, tuple(sorted(vocabulary.special)))
    found: Confusions = load_confusions(vocabulary.labels, name=wanted)
    return _Labels(found.labels, found.blank, found.boundary, (), found.log_map)


def _knows_english(vocabulary: Vocabulary) -> bool:
    try:
        load_confusions(vocabulary.labels)
    except VocabularyError:
        return False
    return True


def _mapper(log_map: FloatRows) -> Callable[[FloatRows], FloatRows]:
    def mapped(log_probs: FloatRows) -> FloatRows:
        return map_labels(log_probs, log_map)

    return mapped


class _Files:
    """The files that a config names: read where they lie, else from the bundle, and kept for the next one."""

    def __init__(self, config: CtcBeamConfig, ports: Ports) -> None:
        self.folder = ports.folder
        self.kept: dict[str, bytes] = {}

    def path(self, path: Path, field: str) -> Path:
        """Where the file of a field is; **Raises** `DataError` when it is nowhere."""
        name = f"{field}-{path.name}"
        bundled = None if self.folder is None else self.folder / name
        found = path if path.is_file() else bundled if bundled is not None and bundled.is_file() else None
        if found is None:
            raise DataError(f"{WHO}: {field}: there is no file {path}; check the path")
        self.kept[name] = found.read_bytes()
        return found

    def check_sources(self, *, english: bool) -> None:
        """Remember what the English data of the package pocketsphinx are; **Raises** `BundleError` when a bundle was
        saved with others."""
        if not english:
            return
        digests = {name: _digest(pocketsphinx_file(name)) for name in (LM_FILE, DICTIONARY_FILE)}
        self.kept[SOURCES_FILE] = json.dumps(digests, indent=1).encode()
        saved = None if self.folder is None else self.folder / SOURCES_FILE
        if saved is not None and saved.is_file() and json.loads(saved.read_bytes()) != digests:
            raise BundleError(
                f"{WHO}: the package pocketsphinx holds another English model or dictionary than the bundle was saved with; "
                f"pip install 'pocketsphinx==5.1.1', or choose again with --set decoder.lexicon=english on a spec"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _language_model(config: CtcBeamConfig, files: _Files) -> NgramModel | None:
    if config.lm_file is not None:
        return with_unknown_words(load_lm(files.path(config.lm_file, "lm_file")))
    english = config.lm == "english" or (config.lm == "auto" and config.lexicon == "english")
    return english_lm() if english else None


def _pronunciations(
    config: CtcBeamConfig, files: _Files, lm: NgramModel | None, labels: Sequence[str], *, size: int
) -> Pronunciations | None:
    if config.lexicon_file is not None:
        return read_dictionary(files.path(config.lexicon_file, "lexicon_file"), phones=labels)
    if config.lexicon == "english":
        missing = sorted(set(PHONES) - set(labels))
        if missing:
            raise VocabularyError(
                f"{WHO}: lexicon: english is written in phones, but the head has no label {missing[0]!r}; use lexicon: "
                f"spelling for letters, or a recogniser of phones such as encoder hama-conformer"
            )
        return english_lexicon(size=size)
    if config.lexicon == "spelling":
        if lm is None:
            raise VocabularyError(
                f"{WHO}: lexicon: spelling takes its words from a language model; give lm_file, or lm: english"
            )
        return spelling_lexicon(
            (word for word in lm.words if not word.startswith("<")), [n for n in labels if n.strip()]
        )
    return None
