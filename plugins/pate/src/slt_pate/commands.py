"""`slt privacy`: what a run will cost, whether its data may be used together, and what a ledger shows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sltcore.cli.console import Console
from sltcore.errors import PrivacyError

if TYPE_CHECKING:
    from slt_pate.dp_sgd_component import DpSgd
    from slt_pate.pate import Pate
    from sltcore.interfaces import PrivacyMechanism

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Differential privacy: plan a run, check its data, read a ledger.",
)

EXIT_EXCEEDED = 1
AsJson = Annotated[bool, typer.Option("--json", help="everything as one JSON object")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="replace a place of the spec")]


@app.callback()
def group() -> None:
    """Differential privacy: plan a run, check its data, read a ledger."""


@app.command("plan")
def plan_command(
    spec: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="a training spec with privacy; without: options below")
    ] = None,
    overrides: Overrides = None,
    utterances: Annotated[
        int | None, typer.Option("--utterances", metavar="N", min=1, help="public recordings to ask about")
    ] = None,
    queries: Annotated[int | None, typer.Option("--queries", metavar="N", min=1, help="queries of the run")] = None,
    epsilon: Annotated[float, typer.Option("--epsilon", help="budget, without SPEC")] = 8.0,
    delta: Annotated[float | None, typer.Option("--delta", help="of the budget; empty: the spec's, else 1e-5")] = None,
    sigma: Annotated[
        float | None, typer.Option("--sigma", help="noise in votes, without SPEC; empty: the least for the budget")
    ] = None,
    teachers: Annotated[int, typer.Option("--teachers", min=1, help="without SPEC")] = 10,
    mechanism: Annotated[
        str, typer.Option("--mechanism", help="without SPEC: gnmax, confident-gnmax, lnmax, …")
    ] = "gnmax",
    as_json: AsJson = False,
) -> None:
    """Tell what a run would cost, before any private data is read.

    Exit codes: 0 the plan stays within the budget, 1 it does not, 2 the call is wrong.
    """
    from slt_pate.report_text import curve_rows, plan_text, table_lines

    if spec is not None:
        model = _train_spec(spec, overrides or [])
        part, name = _mechanism(model), model.name or spec.stem
        if utterances is None and queries is None and model.data.public:
            utterances = _without_texts(model.data.public)
    else:
        fields = {
            "epsilon": epsilon,
            "delta": delta or 1e-5,
            "sigma": sigma,
            "teachers": teachers,
            "mechanism": mechanism,
        }
        part, name = _of_fields({**fields, "candidates": ["a", "b"], "unit": "unit"}), ""
    facts = _plan_facts(part, name, delta, utterances=utterances, queries=queries)
    console = Console()
    if as_json:
        console.result(_json(facts))
    else:
        console.result("\n".join(plan_text(facts)))
        if facts["curve"]:
            rows = curve_rows([(int(count), float(cost)) for count, cost in facts["curve"]])
            counted = "queries" if "queries" in facts else "steps"
            console.result("\n" + "\n".join(table_lines([counted, "epsilon", ""], rows)))
    raise typer.Exit(0 if facts["fits"] else EXIT_EXCEEDED)


@app.command("check")
def check_command(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="a training spec with privacy: pate")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check that private, public and development data share no unit, id or file, that the start is public, and count shards.

    It reads the private data's names; what it prints about shards is private.
    """
    from slt_pate.pate import Pate
    from slt_pate.queries.sources import refuse_private_start, refuse_start_on
    from sltcore.data.examples import read_examples

    console = Console()
    model = _train_spec(spec, overrides or [])
    part = _mechanism(model)
    if not isinstance(part, Pate):
        raise PrivacyError(f"{spec} has privacy {type(part).__name__}; expected pate, whose shards are checked")
    data = model.data
    private, public, dev = (
        read_examples(entries, progress=console.say) if entries else []
        for entries in (data.private, data.public, data.dev)
    )
    shards = part.shards_of(private, public, dev)
    refuse_start_on(refuse_private_start(model.pipeline if isinstance(model.pipeline, Path) else None), private)
    units = [sum(teacher == one for teacher in shards.teacher_of.values()) for one in range(part.teachers)]
    facts = {
        "unit": part.protection.unit,
        "units": len(shards.teacher_of),
        "utterances": len(private),
        "units_by_teacher": units,
        "utterances_by_teacher": [len(rows) for rows in shards.rows],
    }
    if as_json:
        console.result(json.dumps(facts, indent=1))
        return
    console.result(
        f"{facts['units']:,} private units ({facts['unit']}), {facts['utterances']:,} utterances; none is public or looked at in "
        f"evaluation\nprivate, not for publication: {min(units)} to {max(units)} units a teacher, {units.count(0)} of "
        f"{part.teachers} teachers have none"
    )


@app.command("teachers")
def teachers_command(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="a training spec with privacy: pate")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="the run's folder, as slt train will be told")],
    overrides: Overrides = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="at a time; empty: one for each processor")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", metavar="NAME", help="local, or ray for many machines")] = "local",
) -> None:
    """Train the teachers of a run ahead of it, several at a time; slt train with the same --out finds them finished.

    Nothing is released, so nothing is spent. What it leaves is as private as the recordings.
    """
    from slt_pate.parallel_teachers import train_ahead

    if engine not in ("local", "ray"):
        raise PrivacyError(f"--engine is '{engine}', expected local or ray")
    console = Console()
    chosen: Any = engine
    for bundle in train_ahead(spec, out, overrides=overrides or [], workers=workers, engine=chosen, say=console.say):
        console.result(str(bundle))


@app.command("report")
def report_command(
    ledger: Annotated[Path, typer.Argument(metavar="LEDGER", help="the ledger's file")],
    bundles: Annotated[
        list[Path] | None, typer.Option("--bundle", metavar="DIR", help="a released bundle, compared with the ledger")
    ] = None,
    delta: Annotated[float | None, typer.Option("--delta", help="tell epsilon at this delta too")] = None,
    data_dependent: Annotated[
        bool, typer.Option("--data-dependent", help="count the private votes too; the figure may not leave")
    ] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="tell a data-dependent figure that may leave; the ledger pays for it")
    ] = False,
    teachers: Annotated[
        int | None, typer.Option("--teachers", metavar="N", min=1, help="with --publish: how many voted, or more")
    ] = None,
    agreement: Annotated[
        float, typer.Option("--agreement", min=0.01, max=1, help="with --publish: a guess of how many teachers agree")
    ] = 0.9,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="with --publish: tell settings and cost alone")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what was spent, from a ledger whose chain is verified first.

    With --bundle, a ledger that was rolled back behind a release is an error. --publish releases one more number, so it needs
    some of the budget; asked again, it tells the same number at no cost.
    """
    from slt_pate.report_text import curve_rows, published_text, report_text, table_lines

    if publish:
        from slt_pate.publishing import publish as tell

        if teachers is None:
            raise PrivacyError("--publish needs --teachers, the number of teachers that voted, or more")
        told = tell(ledger, teachers=teachers, agreement=agreement, dry_run=dry_run)
        Console().result(_json(told) if as_json else "\n".join(published_text(told)))
        return
    facts = _report_facts(ledger, bundles or [], delta, data_dependent=data_dependent)
    console = Console()
    if as_json:
        console.result(_json(facts))
        return
    console.result("\n".join(report_text(facts)))
    if facts["curve"]:
        console.result("\n" + "\n".join(table_lines(["lines", "epsilon", ""], curve_rows(facts["curve"]))))


def _json(facts: dict[str, Any]) -> str:
    """One object; infinity, which JSON does not have, is null."""
    plain = {key: None if isinstance(value, float) and math.isinf(value) else value for key, value in facts.items()}
    return json.dumps(plain, ensure_ascii=False, indent=1)


def _train_spec(path: Path, overrides: list[str]) -> Any:
    from sltcore.registry import default_registry
    from sltcore.spec.load import load_spec

    model = load_spec(path, overrides=overrides, registry=default_registry(), kind="train").model
    if model.privacy is None:
        raise PrivacyError(f"{path} has no privacy; expected a training spec with privacy: {{use: pate}} or another")
    return model


def _mechanism(model: Any) -> PrivacyMechanism:
    from sltcore.registry import default_registry
    from sltcore.train.start import build_privacy

    part: PrivacyMechanism = build_privacy(model, default_registry())
    return part


def _without_texts(entries: Any) -> int:
    """How many public recordings can be asked about."""
    from slt_pate.rows import text_of
    from sltcore.data.examples import read_examples

    return sum(not text_of(example) for example in read_examples(entries, progress=Console().say))


def _of_fields(fields: dict[str, Any]) -> Pate:
    from pydantic import ValidationError

    from slt_pate.build import pate
    from slt_pate.config import PateConfig
    from sltcore.plugin import Ports

    try:
        return pate(PateConfig(**fields), Ports())
    except ValidationError as error:
        first = error.errors()[0]
        raise PrivacyError(f"--{first['loc'][0]}: {first['msg']}") from None


def _plan_facts(
    part: PrivacyMechanism, name: str, delta: float | None, *, utterances: int | None, queries: int | None
) -> dict[str, Any]:
    from slt_pate.dp_sgd_component import DpSgd
    from slt_pate.pate import Pate

    given = {"utterances": utterances, "queries": queries}
    sizes = {key: value for key, value in given.items() if value is not None}
    delta = float(getattr(part, "delta", 1e-5)) if delta is None else delta
    if isinstance(part, DpSgd):
        return {"name": name, **_steps_facts(part, delta)}
    if not isinstance(part, Pate):
        cost = part.plan(delta)
        budget = float(getattr(part, "epsilon", math.inf))
        common = {"name": name, "epsilon": cost.epsilon, "delta": delta, "unit": cost.unit, "budget": budget}
        return {**common, "fits": cost.epsilon <= budget, "charges": [], "curve": []}
    return {"name": name, **_pate_facts(part, delta, sizes)}


def _steps_facts(part: DpSgd, delta: float) -> dict[str, Any]:
    from slt_pate.report_text import at_fractions, charge_words

    cost, budget, steps = part.plan(delta), part.protection.epsilon, part.sampling.steps
    points = at_fractions(steps) if math.isfinite(cost.epsilon) else []
    return {
        "steps": steps,
        "epsilon": cost.epsilon,
        "delta": delta,
        "unit": cost.unit,
        "budget": budget,
        "fits": math.isinf(budget) or part.plan(part.delta).epsilon <= budget,
        "charges": [charge_words(charge) for charge in part.charges(steps)],
        "curve": [(point, part.plan(delta, steps=point).epsilon) for point in points],
    }


def _pate_facts(part: Pate, delta: float, sizes: dict[str, int]) -> dict[str, Any]:
    from slt_pate.accounting.tight import tight_epsilon
    from slt_pate.budget import epsilon_of, fits, worst_case
    from slt_pate.queries import PublicModel
    from slt_pate.report_text import at_fractions, charge_words

    count = part.queries(**sizes)
    mechanism = part.mechanism_for(count)
    cost = part.plan(delta, queries=count)
    design = part.asked.design(PublicModel(object(), "a public model") if part.asked.needs_model else None)
    answers, budget = part.asked.answers, part.protection
    charges = worst_case(mechanism, count, answers)
    points = at_fractions(count) if math.isfinite(cost.epsilon) else []
    return {
        "queries": count,
        "epsilon": cost.epsilon,
        "tight_epsilon": tight_epsilon(charges, delta) if math.isfinite(cost.epsilon) else math.inf,
        "delta": delta,
        "unit": cost.unit,
        "budget": budget.epsilon,
        "fits": math.isinf(budget.epsilon) or (bool(charges) and fits(charges, budget.epsilon, budget.delta)),
        "charges": [charge_words(charge) for charge in charges],
        "statement": design.statement()._asdict(),
        "curve": [(point, epsilon_of(worst_case(mechanism, point, answers), delta)) for point in points],
    }


def _report_facts(path: Path, bundles: list[Path], delta: float | None, *, data_dependent: bool) -> dict[str, Any]:
    from slt_pate.budget import epsilon_of
    from slt_pate.ledger import merge_charges, read_ledger
    from slt_pate.report_text import at_fractions, charge_words
    from slt_pate.stamps import read_stamp

    history = read_ledger(path)
    found: dict[str, int] = {}
    for bundle in bundles:
        stamp, _ = read_stamp(bundle)
        history.verify(stamp, what=str(bundle))
        found[str(bundle)] = stamp.lines
    terms = history.terms
    spent_at = float(terms["delta"])
    entries = history.entries
    curve = [
        (count, epsilon_of(merge_charges(one for entry in entries[:count] for one in entry.charges), spent_at))
        for count in at_fractions(len(entries))
    ]
    facts: dict[str, Any] = {
        "ledger": str(path),
        "head": history.hashes[-1],
        "lines": len(history.hashes),
        "budget": terms["epsilon"],
        "unit": terms["unit"],
        "epsilon": epsilon_of(history.charges, spent_at),
        "delta": spent_at,
        "charges": [charge_words(charge) for charge in history.charges],
        "bundles": found,
        "curve": curve,
    }
    if delta is not None:
        facts["at_delta"] = {"delta": delta, "epsilon": epsilon_of(history.charges, delta)}
    if data_dependent:
        from slt_pate.votes_report import data_dependent_facts

        facts["data_dependent"] = data_dependent_facts(path, history, spent_at)
    return facts
