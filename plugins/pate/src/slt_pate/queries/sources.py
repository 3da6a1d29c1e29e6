"""Where candidates, slots and alignments come from: sources that saw nothing private, and no others."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slt_pate.plugin import STAMP_FILE
from slt_pate.shards import Shards
from sltcore.errors import PrivacyError

_PRIVATE: weakref.WeakSet[Any] = weakref.WeakSet()


def mark_private(model: Any) -> None:
    """Remember that a model saw private data: it is no public source from now on."""
    _PRIVATE.add(model)


@dataclass(frozen=True)
class PublicModel:
    """A pipeline that saw public data only; `origin` says how that is known. Made by `trained` or `from_bundle`.

    `learned_from` are the rows that it was trained on here, `fingerprint` that of the rows a bundle was trained on.
    **Raises** `PrivacyError` for a model that was trained on a private shard.
    """

    pipeline: Any
    origin: str
    learned_from: tuple[Any, ...] = field(default=(), repr=False)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.pipeline in _PRIVATE:
            raise PrivacyError(
                f"the {type(self.pipeline).__name__} that is to be a public source was trained on private data; what it says "
                f"would leave without noise. Next: PublicModel.trained on public data, or PublicModel.from_bundle"
            )

    @classmethod
    def trained(cls, fit: Callable[[Any], Any], rows: Sequence[Any]) -> PublicModel:
        """Train on public rows with texts. **Raises** `PrivacyError` where there is none."""
        if not rows:
            raise PrivacyError(
                "no public utterance has a text, so there is no public model to take candidates from; give public data with "
                "texts, public_model (a bundle), or candidates (texts)"
            )
        return cls(fit(list(rows)), f"trained on {len(rows)} public utterances with texts", tuple(rows))

    @classmethod
    def from_bundle(cls, folder: str | Path) -> PublicModel:
        """Load a bundle that was made elsewhere.

        **Raises** `PrivacyError` where its provenance shows that it is a teacher, or names a privacy loss: what was spent
        for it stands in another ledger.
        """
        from sltcore.bundle import load

        facts = public_facts(folder, what="public_model")
        origin = f"bundle {Path(folder).name}"
        origin += f", trained on {facts['data']}" if facts.get("data") else ", of whose training nothing is recorded"
        return cls(load(folder), origin, fingerprint=str(facts.get("fingerprint") or ""))

    def verify(self, shards: Shards, private: Sequence[Any]) -> None:
        """**Raises** `PrivacyError` where it was trained on private data: by unit, id, file, or fingerprint of the whole."""
        from sltcore.data.examples import Example, fingerprint

        shards.refuse_outside(self.learned_from, "public")
        examples = [row for row in private if isinstance(row, Example)]
        if examples and self.fingerprint == fingerprint(examples):
            raise PrivacyError(
                f"public_model ({self.origin}) was trained on the private data; expected one trained on others"
            )


def public_facts(folder: str | Path, *, what: str) -> dict[str, Any]:
    """What a bundle's provenance says of its training.

    **Raises** `PrivacyError` where that shows private data: a release of another ledger, or a model of a run with privacy.
    """
    from sltcore.bundle import provenance

    facts: dict[str, Any] = provenance.read(Path(folder)).get("training") or {}
    spec = facts.get("spec") or {}
    if facts.get("privacy") or (Path(folder) / STAMP_FILE).exists():
        raise PrivacyError(
            f"{what} {folder} was released by a privacy mechanism, from data that its own ledger knows; this ledger cannot count "
            f"that. Expected a bundle trained on public data"
        )
    if spec.get("privacy") or (spec.get("data") or {}).get("private"):
        raise PrivacyError(
            f"{what} {folder} is a model of a run with privacy, most likely a teacher; expected a bundle trained on public data"
        )
    return facts


def refuse_private_start(start: Any) -> str:
    """The fingerprint of the data that a bundle was trained on, "" for none; `start` is what models begin from.

    **Raises** `PrivacyError` where its provenance shows private data, which every model that begins there would carry.
    """
    if start is None or not Path(start).is_dir():
        return ""
    return str(public_facts(start, what="pipeline").get("fingerprint") or "")


def refuse_start_on(fingerprint_of_start: str, private: Sequence[Any]) -> None:
    """**Raises** `PrivacyError` where the bundle that models begin from was trained on these rows."""
    from sltcore.data.examples import Example, fingerprint

    examples = [row for row in private if isinstance(row, Example)]
    if examples and fingerprint_of_start and fingerprint_of_start == fingerprint(examples):
        raise PrivacyError(
            "pipeline is a bundle that was trained on the private data, without a privacy loss; expected one trained on others"
        )


@dataclass(frozen=True)
class CandidateList:
    """Texts that were written down beforehand, as commands are; the same for every utterance."""

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.texts)) < 2:
            raise PrivacyError(
                f"candidates are {list(self.texts)!r}, expected at least two different texts: there is nothing to vote on"
            )

    @property
    def origin(self) -> str:
        """How it is known to be public."""
        return f"a list of {len(self.texts)} texts in the spec"


def require_public(source: Any, *, query: str, kinds: tuple[type, ...] = (PublicModel,)) -> Any:
    """The source, where it is known to be public. **Raises** `PrivacyError` for anything else."""
    if isinstance(source, kinds):
        return source
    names = " or ".join(kind.__name__ for kind in kinds)
    raise PrivacyError(
        f"query '{query}' is to take its candidates from a {type(source).__name__}, of which nothing shows that it saw no "
        f"private data; expected a {names}. Next: PublicModel.trained on public data, or PublicModel.from_bundle"
    )
