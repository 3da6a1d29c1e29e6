"""The adapter of whole models: updates that are trained one by one and work together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slt_residual_adapters.attachment import Attachment
from slt_residual_adapters.base_hash import hash_model, refuse_other_base
from slt_residual_adapters.branches import EPS, Activation, Bottleneck, LowRank, Method, fill
from slt_residual_adapters.freezing import Frozen
from slt_residual_adapters.fusion import ATTENTION_WIDTH, LEARNED, Mode, make_fusion
from slt_residual_adapters.placement import Place, is_batch_first, places
from slt_residual_adapters.selection import TRANSCRIPT, UPDATES, Selection, general_rows, select
from slt_residual_adapters.silence import Silence
from slt_residual_adapters.site import Site
from slt_residual_adapters.update import Update, check_name, from_tensors, read_update, to_tensors
from sltcore.errors import PluginError, did_you_mean
from sltcore.interfaces import Adapter
from sltcore.types import ContextKey

FUSION = "fusion."
UPDATE = "updates."
FREE = ("fusion", "weights", "silence")
"""Fields that a bundle with trained updates may have set."""


class ResidualAdapters(Adapter):
    """Updates of a frozen model: at each place `y' = y + Σ_k w_k A_k(y)`, where A_k is what update k learned.

    With `name` one new update is trained, alone: its parameters are all that changes. With `updates` (files, or bundles that
    training left) finished ones work together by `fusion`; `attention` and `gate` learn how, the updates and the base as
    they are. A call's `updates` chooses among them, for each utterance.

    - `place`: patterns of modules, see `named`; `rank`, `activation`, `eps`: of the new update's bottlenecks; `d`: their
      width, where modules do not say it. With `method` "lora" it is a low-rank product beside linear layers instead,
      times `alpha` / `rank`.
    - `weights`: w_k by name, 1 for those not named. `silence`: λ of the penalty `λ mean ||Σ_k A_k(y)||²` over the rows of
      general audio: utterances whose `transcript` holds none of `words`; over all rows where nothing says so. Padding does
      not count where lengths come with the values (`Silence`).
    - `folds`: whether evaluation works folded (`Folded`); off for comparison. `is_external`: the updates stay in files of
      their own, and `state` is empty.

    The base's parameters, running statistics and dropout stay as they are in training (`Frozen`), and an update is refused
    on another base than it was trained on. In evaluation modules may be called by `forward` or by `step` and the like
    (`attachment.METHODS`).

    **Source**: after Han, Baby and Mendelev, "Residual adapters for targeted updates in RNN-transducer based speech
    recognition system" (sum-fusion of adapters in parallel); see `Bottleneck`, `AttentionFusion`, `LowRank` for theirs.
    """

    def __init__(
        self,
        name: str = "",
        updates: Sequence[str | Path | Update] = (),
        *,
        words: Sequence[str] = (),
        card: Mapping[str, Any] | None = None,
        place: Sequence[str] = (),
        rank: int = 32,
        d: int | None = None,
        activation: Activation = "silu",
        eps: float = EPS,
        method: Method = "residual",
        alpha: float | None = None,
        fusion: Mode = "sum",
        attention_width: int = ATTENTION_WIDTH,
        weights: Mapping[str, float] | None = None,
        silence: float = 0.0,
        folds: bool = True,
        is_external: bool = False,
        learned: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.name = check_name(name) if name else ""
        self.sources = tuple(updates)
        if self.name and self.sources:
            raise PluginError(f"update '{name}' is trained alone; leave updates empty, or name to use them as they are")
        self.words, self.card, self.place = tuple(words), dict(card or {}), tuple(place)
        self.rank, self.d, self.activation, self.eps = rank, d, activation, eps
        self.method, self.scale = method, (rank if alpha is None else alpha) / rank
        self.mode: Mode = fusion
        self.attention_width, self.weights = attention_width, dict(weights or {})
        self.silence, self.folds, self.is_external = silence, folds, is_external
        self.starts_as_identity = not self.sources
        self.model: nn.Module | None = None
        self.updates: dict[str, Update] = {}
        self.sites: dict[str, Site] = {}
        self.learned = dict(learned or {})
        self.is_finished = bool(learned)
        self.observer: Any = None
        self._attachment: Attachment | None = None
        self._frozen: Frozen | None = None
        self._base: dict[str, str] = {}
        self._is_unchecked = False
        self._context: Mapping[str, Any] = {}
        self._selected: Selection | None = None
        self._called: set[str] = set()
        self._quiet = Silence()

    # The order of life

    def attach(self, model: nn.Module, calibration: Iterator[Any] | None = None) -> None:
        """Put a fresh update, or the given ones, at their places. The first of `calibration` tells widths where it is given.

        **Raises** `PluginError` when it is attached already, there is nothing to attach, patterns match nothing, modules do
        not say their width, a file is no update, an update belongs to another base, or two have one name.
        """
        self._refuse_second(model)
        if not self.name and not self.sources:
            raise PluginError(
                "residual adapters: give name, to train an update, or updates, to use some that are trained"
            )
        self._base = hash_model(model)
        if self.sources:
            updates = self._read()
            for update in updates:
                refuse_other_base(update.name, update.base, self._base, what="this model")
            self._wear(model, updates)
            return
        example = next(iter(calibration), None) if calibration is not None else None
        is_linear = self.method == "lora"
        self._wear_fresh(model, places(model, self.place, d=self.d, example=example, linear=is_linear))

    def detach(self) -> None:
        """Undo `attach`. **Raises** `PluginError` when it is not attached."""
        if self._attachment is None:
            raise PluginError("ResidualAdapters.detach: it is not attached; call attach(model) first")
        self._attachment.remove()
        if self._frozen is not None:
            self._frozen.release()
        self._attachment, self._frozen, self.model = None, None, None
        self.sites, self.updates = {}, {}

    def finish(self) -> None:
        """End training: parameters ask for no gradient any more. A second call changes nothing."""
        if self._attachment is None:
            raise PluginError("ResidualAdapters.finish: it is not attached; call attach(model) first")
        for site in self.sites.values():
            site.requires_grad_(False)
        self.is_finished = True

    def settles(self, field: str) -> bool:
        """What an update is once it is trained; how updates are fused and weighed stays free."""
        return bool(self.updates) and field not in FREE

    def context_keys(self) -> tuple[ContextKey, ...]:
        """`updates`, and in training `transcript`."""
        return (UPDATES, TRANSCRIPT)

    @contextmanager
    def use(self, context: Mapping[str, Any]) -> Iterator[None]:
        """Lets the places read `updates`. **Raises** `ContextError` for a name that no update has, and in training
        `PluginError` for a place that the model does not call, whose adapter would learn nothing."""
        before = self._context, self._selected
        self._context, self._selected = context, None
        self._check_base()
        learns = self._learns()
        self._select()
        self._called.clear()
        held = self._frozen.holding() if learns and self._frozen is not None else nullcontext()
        heard: Any = nullcontext()
        if self.silence and learns and self.model is not None and torch.is_grad_enabled():
            heard = self._quiet.listening(self.model)
        try:
            with held, heard:
                yield
            if learns and torch.is_grad_enabled() and self._called:
                self._refuse_silent()
        finally:
            self._context, self._selected = before

    def penalty(self) -> Tensor | None:
        """`λ mean ||Σ_k w_k A_k(y)||²` over general rows that are no padding, the mean over places too, see `Silence`; None
        where λ or those rows are none."""
        mean = self._quiet.mean()
        return None if mean is None else self.silence * mean

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The new update's parameters, or those of a fusion that is learned."""
        own = [parameter for parameter in self._parameters() if parameter.requires_grad]
        return [{"params": own, "weight_decay": 0.0}] if own else []

    # What it keeps

    def state(self) -> Mapping[str, Tensor]:
        """Every update with its facts, and what the fusion learned."""
        found: dict[str, Tensor] = {}
        if self.is_external:
            return found
        for name in self.updates:
            found.update({f"{UPDATE}{name}.{key}": tensor for key, tensor in to_tensors(self.update(name)).items()})
        if found:
            found[f"{FUSION}finished"] = torch.tensor(self.is_finished)
        for place, site in self.sites.items():
            if site.fusion is not None:
                found.update({f"{FUSION}{place}.{key}": p.detach() for key, p in site.fusion.named_parameters()})
        return found

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Stand where `state` was taken. The base is checked when it is first called, for its weights may come later.
        **Raises** `PluginError` as `attach` does."""
        if not state and not self.is_external:
            self.attach(model)
            return
        self._refuse_second(model)
        self._is_unchecked = True
        if self.is_external:
            self._wear(model, self._read())
            return
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            if key.startswith(UPDATE):
                name, _, rest = key.removeprefix(UPDATE).partition(".")
                parts.setdefault(name, {})[rest] = tensor
        updates = [from_tensors(tensors, f"update '{name}'") for name, tensors in parts.items()]
        learned = {key.removeprefix(FUSION): t for key, t in state.items() if key.startswith(FUSION)}
        self.is_finished = bool(learned.pop("finished"))
        self._wear(model, updates)
        self._fill_fusions(learned)

    def update(self, name: str) -> Update:
        """One update as it is now. **Raises** `PluginError` for a name that none has."""
        if name not in self.updates:
            has = ", ".join(self.updates) or "none"
            raise PluginError(f"no update is named '{name}'; updates: {has}.{did_you_mean(name, self.updates)}")
        tensors = {
            place: {part: p.detach() for part, p in site.branches[name].named_parameters()}
            for place, site in self.sites.items()
            if name in site.branches
        }
        return Update(**{**self.updates[name].__dict__, "tensors": tensors})

    # Inside

    def _read(self) -> list[Update]:
        return [source if isinstance(source, Update) else read_update(source) for source in self.sources]

    def _wear_fresh(self, model: nn.Module, found: Sequence[Place]) -> None:
        """A new update of the configured shape."""
        update = Update(
            name=self.name,
            base=self._base,
            tensors={},
            words=self.words,
            card=self.card,
            placement=self.place,
            method=self.method,
            activation=self.activation,
            eps=self.eps,
            scale=self.scale,
        )
        self.updates = {self.name: update}
        self._finish_wearing(
            model, {one.name: (one, {self.name: self._branch(update, one, self.rank, model)}) for one in found}
        )

    def _wear(self, model: nn.Module, updates: Sequence[Update]) -> None:
        """Updates that are trained, or that a state brings."""
        names = [update.name for update in updates]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise PluginError(f"two updates are named '{twice[0]}'; give each a name of its own, or one of the two")
        modules = dict(model.named_modules())
        stand: dict[str, tuple[Place, dict[str, nn.Module]]] = {}
        for update in updates:
            for place, tensors in update.tensors.items():
                if place not in modules:
                    raise PluginError(
                        f"update '{update.name}' stands at {place}, which this model has not; it is of another model"
                    )
                up, down = tensors["up"], tensors["down"]
                wide = down.shape[1] if update.method == "lora" else None
                axis = 1 if isinstance(modules[place], nn.Conv1d | nn.ConvTranspose1d) else -1
                where = Place(place, modules[place], up.shape[0], axis, wide)
                branch = self._branch(update, where, up.shape[1], model)
                fill(branch, tensors, f"update '{update.name}' at {place}")
                stand.setdefault(place, (where, {}))[1][update.name] = branch
        unknown = sorted(set(self.weights) - set(names))
        if unknown:
            raise PluginError(
                f"weights names '{unknown[0]}', but the updates are: {', '.join(names)}.{did_you_mean(unknown[0], names)}"
            )
        self.updates = {update.name: update for update in updates}
        order = [name for name in modules if name in stand]
        self._finish_wearing(model, {name: stand[name] for name in order})
        if self.learned:
            self._fill_fusions(self.learned)

    def _finish_wearing(self, model: nn.Module, stand: Mapping[str, tuple[Place, dict[str, nn.Module]]]) -> None:
        for name, (place, branches) in stand.items():
            like = _like(place.module, model)
            fusion = make_fusion(self.mode, place.d, list(branches), width=self.attention_width, **like)
            rows_first = is_batch_first(model, name)
            self.sites[name] = Site(place, branches, mode=self.mode, fusion=fusion, batch_first=rows_first)
            self.sites[name].folds = self.folds
            for own in branches.values():
                own.requires_grad_(bool(self.name) and not self.is_finished)
            if fusion is not None:
                fusion.requires_grad_(self.mode in LEARNED and not self.name and not self.is_finished)
        self.model = model
        self._attachment = Attachment(model, list(self.sites), self._call)
        if self._learns():
            self._frozen = Frozen(model)

    def _branch(self, update: Update, place: Place, rank: int, model: nn.Module) -> nn.Module:
        like = _like(place.module, model)
        if update.method == "residual":
            activation: Any = update.activation
            return Bottleneck(place.d, rank, activation=activation, eps=update.eps, **like)
        if place.d_in is None or not isinstance(place.module, nn.Linear):
            raise PluginError(
                f"place: {place.name} is a {type(place.module).__name__}, but lora stands beside linear layers; name some, or "
                f"use residual adapters"
            )
        return LowRank(place.d_in, place.d, rank, scale=update.scale, **like)

    def _fill_fusions(self, learned: Mapping[str, Tensor]) -> None:
        for name, site in self.sites.items():
            if site.fusion is not None:
                own = {key.removeprefix(f"{name}."): t for key, t in learned.items() if key.startswith(f"{name}.")}
                fill(site.fusion, own, f"the {self.mode} fusion at {name}")

    def _call(self, name: str, output: Any, arguments: tuple[Any, ...]) -> Any:
        """What the module at a place returned, changed."""
        self._check_base()
        site = self.sites[name]
        self._called.add(name)
        selection = self._select()
        if self.observer is not None:
            self.observer(site, output, arguments)
        if self.silence and torch.is_grad_enabled() and self._learns() and selection.names:
            value, _ = site.read(output, arguments)
            changed = site(output, arguments, selection, self.weights)
            rows = general_rows(self._context, self._taught())
            self._quiet.hear(site.read(changed, arguments)[0] - value, axis=0 if site.batch_first else 1, rows=rows)
            return changed
        return site(output, arguments, selection, self.weights)

    def _taught(self) -> list[str]:
        return [word for update in self.updates.values() for word in update.words]

    def _select(self) -> Selection:
        if self._selected is None:
            self._selected = select(self._context, list(self.updates))
        return self._selected

    def _check_base(self) -> None:
        if not self._is_unchecked or self.model is None:
            return
        found = hash_model(self.model)
        for update in self.updates.values():
            refuse_other_base(update.name, update.base, found, what="this model")
        self._base, self._is_unchecked = found, False

    def _refuse_silent(self) -> None:
        silent = [name for name in self.sites if name not in self._called]
        if silent:
            raise PluginError(
                f"place: {silent[0]} is not called in training{f', nor are {len(silent) - 1} more' if len(silent) > 1 else ''}, "
                f"so an adapter there would learn nothing; name other modules"
            )

    def _refuse_second(self, model: nn.Module) -> None:
        if self.model is not None:
            raise PluginError(
                f"ResidualAdapters.attach: it is attached already, to {type(self.model).__name__}; detach it, or make another "
                f"for {type(model).__name__}"
            )

    def _parameters(self) -> Iterator[nn.Parameter]:
        for site in self.sites.values():
            yield from site.parameters()

    def _learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self._parameters())


def _like(module: nn.Module, model: nn.Module) -> dict[str, Any]:
    """Type and device of a module's own numbers, for what is put beside it."""
    for holder in (module, model):
        for parameter in holder.parameters():
            if parameter.is_floating_point():
                return {"dtype": parameter.dtype, "device": parameter.device}
    return {"dtype": torch.get_default_dtype(), "device": torch.device("cpu")}
