"""Reading `transformers` checkpoints: from a folder or the local hub cache, and from the hub only when asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from slt_speech.hf_models import SUPPORTED_TYPES
from slt_speech.hf_speech import HfSpeech
from sltcore.errors import DataError, SpecError, did_you_mean
from sltcore.vocabulary import Vocabulary

FILE = "hf-speech.json"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
DEFAULT_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
WORD_DELIMITER = "|"  # default of Wav2Vec2CTCTokenizer


class Description(NamedTuple):
    """A checkpoint without its weights: `config` of the model, `processor` settings, labels of a CTC head."""

    config: Mapping[str, Any]
    processor: Mapping[str, Any]
    ctc: bool
    vocabulary: Vocabulary | None

    def to_bytes(self) -> bytes:
        """JSON that `from_bytes` reads."""
        labels = self.vocabulary.to_dict() if self.vocabulary else None
        data = {"config": self.config, "processor": self.processor, "ctc": self.ctc, "vocabulary": labels}
        return json.dumps(data, sort_keys=True, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Description:
        """What `to_bytes` wrote."""
        found = json.loads(data)
        labels = found["vocabulary"]
        return cls(found["config"], found["processor"], found["ctc"], Vocabulary.from_dict(labels) if labels else None)


def load(source: Source, **options: Any) -> HfSpeech:
    """The encoder at a source, with its weights; `options` go to `HfSpeech`.

    **Raises** `DataError` when it is not here, is incomplete, or is not a model of `transformers`; `SpecError` for a
    type that is not supported.
    """
    description = source.description()
    with quiet():
        whole = source.weights(description)
    return _encoder(whole, description, options)


def describe(architecture: Mapping[str, Any]) -> Description:
    """The description of a model given by the fields of its config alone, for training from scratch; no CTC head.

    **Raises** `SpecError` for a field that its type does not have, which `transformers` itself would pass over.
    """
    known = configuration({"model_type": architecture.get("model_type")}).to_dict()
    for name in architecture:
        if name not in known:
            raise SpecError(
                f"hf-speech: architecture has the field '{name}', which models of type '{architecture['model_type']}' do "
                f"not have.{did_you_mean(name, known)}"
            )
    return Description(architecture, {}, False, None)


def rebuild(description: Description, **options: Any) -> HfSpeech:
    """The same encoder with fresh weights, for a bundle to fill or for training from scratch."""
    from transformers import AutoModel, AutoModelForCTC

    config = configuration(description.config)
    factory: Any = AutoModelForCTC if description.ctc else AutoModel
    with quiet(), refused_values(config.model_type):
        whole = factory.from_config(config, trust_remote_code=False)
    return _encoder(whole.float(), description, options)


def configuration(fields: Mapping[str, Any]) -> Any:
    """A `transformers` config from its fields. **Raises** `SpecError` when model_type is missing or unsupported, or a
    value is refused by the config class."""
    from transformers import AutoConfig

    kind = fields.get("model_type")
    if kind not in SUPPORTED_TYPES:
        raise SpecError(f"hf-speech: architecture has model_type {kind!r}; supported: {', '.join(SUPPORTED_TYPES)}")
    rest = {name: value for name, value in fields.items() if name != "model_type"}
    with refused_values(kind):
        return AutoConfig.for_model(kind, **rest)


@contextmanager
def refused_values(kind: str) -> Iterator[None]:
    """What `transformers` says against the values of a config, as one `SpecError`."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise SpecError(
            f"hf-speech: architecture of type '{kind}' is refused by transformers: {_line(error)}"
        ) from error


def _encoder(whole: Any, description: Description, options: Mapping[str, Any]) -> HfSpeech:
    head: nn.Module | None = whole.lm_head if description.ctc else None
    base = whole.base_model if description.ctc else whole
    if base.config.model_type == "whisper":
        base = base.get_encoder()
    return HfSpeech(
        base,
        description.processor,
        head=head,
        vocabulary=description.vocabulary,
        files={FILE: description.to_bytes()},
        **options,
    )


class Source(NamedTuple):
    """Where a checkpoint is: a folder, or a hub name at a revision, which `download` allows to fetch."""

    model: str
    revision: str | None = None
    download: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether `model` is a folder on this machine."""
        return Path(self.model).is_dir()

    def description(self) -> Description:
        """Config, processor settings and labels."""
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoConfig

        self._check_folder()
        options = {"revision": self.revision, "local_files_only": not self.download, "trust_remote_code": False}
        try:
            with quiet():
                config = AutoConfig.from_pretrained(self.model, **options)
        except OSError as error:
            raise self._missing(error) from error
        except (ValueError, KeyError, StrictDataclassError) as error:
            raise DataError(
                f"hf-speech: transformers cannot read the config of '{self.model}': {_line(error)} "
                f"(code that a checkpoint brings along is never run)"
            ) from error
        if config.model_type not in SUPPORTED_TYPES:
            raise SpecError(
                f"hf-speech: '{self.model}' has model type '{config.model_type}', which is not supported; "
                f"supported: {', '.join(SUPPORTED_TYPES)}"
            )
        ctc = any(name.endswith("ForCTC") for name in config.architectures or ())
        labels = self._vocabulary(config) if ctc else None
        return Description(json.loads(config.to_json_string(use_diff=False)), self._processor(), ctc, labels)

    def weights(self, description: Description) -> Any:
        """The whole model with its weights, as float32."""
        import torch
        from transformers import AutoModel, AutoModelForCTC

        factory: Any = AutoModelForCTC if description.ctc else AutoModel
        try:
            whole, info = factory.from_pretrained(
                self.model,
                revision=self.revision,
                local_files_only=not self.download,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except OSError as error:
            raise self._missing(error) from error
        missing = sorted(name for name in info["missing_keys"] if not name.endswith("masked_spec_embed"))
        if missing:
            raise DataError(
                f"hf-speech: the weights of '{self.model}' lack {len(missing)} of the model's tensors, such as "
                f"{missing[0]}; the file is incomplete or belongs to another architecture"
            )
        return whole

    def _check_folder(self) -> None:
        looks_like_path = self.model.startswith((".", "/", "~")) or self.model.count("/") > 1
        if looks_like_path and not self.is_folder:
            raise DataError(
                f"hf-speech: there is no folder '{self.model}'; give the folder that save_pretrained wrote, or a hub name"
            )
        if self.is_folder and not (Path(self.model) / "config.json").is_file():
            raise DataError(
                f"hf-speech: folder '{self.model}' has no config.json; give the folder that save_pretrained wrote"
            )

    def _missing(self, error: BaseException) -> DataError:
        if self.is_folder:
            return DataError(f"hf-speech: folder '{self.model}' holds no complete model: {_line(error)}")
        if self.download:
            return DataError(f"hf-speech: the hub did not give '{self.model}': {_line(error)}")
        return DataError(
            f"hf-speech: model '{self.model}' is not on this machine; fetch it once with `hf download {self.model}`, "
            f"or set download: true, or give a folder"
        )

    def _json(self, name: str) -> dict[str, Any]:
        """A JSON file of the checkpoint; empty where it has none."""
        path = Path(self.model) / name if self.is_folder else self._hub_file(name)
        if path is None or not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"hf-speech: {name} of '{self.model}' is not JSON: {_line(error)}") from error
        return found if isinstance(found, dict) else {}

    def _hub_file(self, name: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self.model, name, revision=self.revision, local_files_only=not self.download))
        except (EntryNotFoundError, LocalEntryNotFoundError):
            return None

    def _processor(self) -> dict[str, Any]:
        found = self._json("preprocessor_config.json") or self._json("processor_config.json").get(
            "feature_extractor", {}
        )
        kept = ("sampling_rate", "do_normalize", "n_fft", "hop_length")
        return {name: found[name] for name in kept if name in found}

    def _vocabulary(self, config: Any) -> Vocabulary | None:
        ids = self._json("vocab.json")
        settings = {**self._json("special_tokens_map.json"), **self._json("tokenizer_config.json")}
        language = settings.get("target_lang")
        if ids and all(isinstance(value, dict) for value in ids.values()):  # one table a language, as MMS has
            if language not in ids:
                raise DataError(
                    f"hf-speech: vocab.json of '{self.model}' has labels for {', '.join(sorted(ids)[:6])}…, and "
                    f"tokenizer_config.json names target_lang {language!r}; write one of them there"
                )
            ids = ids[language]
        return read_vocabulary(ids, settings, count=config.vocab_size, blank=config.pad_token_id) if ids else None


def read_vocabulary(
    ids: Mapping[str, int], settings: Mapping[str, Any], *, count: int, blank: int | None
) -> Vocabulary:
    """The labels of a CTC head with `count` outputs, from vocab.json and tokenizer_config.json; blank is the padding token.

    **Raises** `DataError` when an id lies beyond the head.
    """
    labels = [f"<unused {index}>" for index in range(count)]
    for label, index in ids.items():
        if not 0 <= index < count:
            raise DataError(f"hf-speech: vocab.json gives {label!r} the id {index}, but the head has {count} outputs")
        labels[index] = label
    tokens = {name: _token(settings.get(name), DEFAULT_TOKENS[name]) for name in SPECIAL_TOKENS}
    blank = ids.get(tokens["pad_token"], blank or 0) if blank is None else blank
    special = {ids[token] for token in tokens.values() if token in ids} - {blank}
    special |= {index for index, label in enumerate(labels) if label.startswith("<unused ")}
    if "Phoneme" in str(settings.get("tokenizer_class", "")):
        kind = "phones"
    else:
        kind = "subwords" if any(label.startswith("▁") for label in labels) else "characters"
    delimiter = ids.get(_token(settings.get("word_delimiter_token"), WORD_DELIMITER))
    boundary = delimiter if kind != "subwords" else None
    return Vocabulary(labels, kind=kind, blank=blank, boundary=boundary, special=special)


@contextmanager
def quiet() -> Iterator[None]:
    """`transformers` without progress bars and warnings inside; what matters of them is raised as an error."""
    from transformers.utils import logging as module

    logging: Any = module
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _token(value: Any, default: str) -> str:
    """A special token, which tokenizer files write as text or as a map with `content`."""
    return str(value.get("content", default)) if isinstance(value, Mapping) else str(value or default)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
