"""Privacy costs in words and numbers, for people who answer for them and do not train models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from slt_pate.events import (
    Charge,
    Event,
    GaussianMax,
    LaplaceMax,
    NoisyVector,
    NoisyVectorLaplace,
    Publication,
    SampledGaussian,
    ThresholdTest,
)

FALSE_ALARMS = 0.05
"""The share of outsiders that an attacker wrongly accuses, in the sentence about what an attacker can do."""


def guarantee(epsilon: float, delta: float, unit: str) -> list[str]:
    """What (epsilon, delta) promises, in sentences.

    The bound on an attacker who accuses at most 5 % of outsiders is min(1, e^epsilon 5 % + delta, 1 - e^-epsilon (95 % -
    delta)) (Kairouz, Oh, Viswanath, 2015, theorem 2.1: the region of errors under differential privacy).
    """
    if math.isinf(epsilon):
        return [f"No protection: something was released without noise, so epsilon per {unit} is infinite."]
    power = detection(epsilon, delta, FALSE_ALARMS)
    return [
        f"epsilon {number(epsilon)} at delta {delta:g}, for one {unit}. It was computed from public numbers alone, "
        "so it may be published.",
        f"Protected is all that the data hold of one {unit}: were these recordings others, everything that was released would "
        f"look alike, each outcome at most {number(math.exp(min(epsilon, 700)))} times as likely or unlikely, except with "
        f"probability {delta:g}.",
        f"An attacker who sees all releases, and who wrongly accuses at most {FALSE_ALARMS:.0%} of those who are not in the "
        f"data, finds at most {math.ceil(1000 * power) / 10:g} % of those who are.",
    ]


def detection(epsilon: float, delta: float, false_alarms: float) -> float:
    """The most true accusations of any attacker with so many false ones."""
    straight = math.exp(min(epsilon, 700)) * false_alarms + delta
    mirrored = 1 - math.exp(-epsilon) * max(0.0, 1 - false_alarms - delta)
    return max(false_alarms, min(1.0, straight, mirrored))


def number(value: float) -> str:
    """Four digits, never rounded to less than it is."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    digits = 3 - math.floor(math.log10(abs(value)))
    scaled = math.ceil(value * 10.0**digits - 1e-6)
    return f"{scaled / 10.0**digits:.4g}"


def charge_words(charge: Charge) -> str:
    """One line about what was done, with its noise."""
    return f"{charge.count:,} x {event_words(charge.event)}"


def event_words(event: Event) -> str:
    """What an event is, in words."""
    match event:
        case GaussianMax():
            return f"class with the most votes, Gaussian noise of {event.sigma:g} votes"
        case LaplaceMax():
            return f"class with the most votes, Laplace noise of scale {event.scale:g} votes"
        case ThresholdTest():
            return f"test whether enough teachers agree, Gaussian noise of {event.sigma:g} votes"
        case NoisyVector():
            return (
                f"sum of distributions, Gaussian noise of {event.sigma:g}, one unit moves it by {event.sensitivity:.4g}"
            )
        case NoisyVectorLaplace():
            return (
                f"sum of distributions, Laplace noise of {event.scale:g}, one unit moves it by {event.sensitivity:.4g}"
            )
        case Publication():
            return f"data-dependent epsilon told with Gaussian noise of {event.noise:g} smooth sensitivities at beta {event.beta:g}"
        case SampledGaussian():
            return (
                f"step of DP-SGD, noise multiplier {event.noise_multiplier:g}, each unit drawn with probability "
                f"{event.rate:.4g}"
            )


def curve_rows(points: Iterable[tuple[int, float]]) -> list[list[str]]:
    """Rows of a table: queries or lines so far, epsilon so far, and a bar."""
    found = list(points)
    most = max((epsilon for _, epsilon in found), default=0.0)
    return [
        [f"{count:,}", number(epsilon), "#" * round(30 * epsilon / most) if most and math.isfinite(most) else ""]
        for count, epsilon in found
    ]


def at_fractions(count: int, points: int = 10) -> list[int]:
    """Up to `points` whole numbers from 1 to `count`, evenly spread, `count` the last."""
    return sorted({max(1, round(count * part / points)) for part in range(1, points + 1)}) if count else []


def plan_text(facts: Mapping[str, Any]) -> list[str]:
    """A plan in lines. `facts` are those of `slt privacy plan --json`."""
    lines = [
        *([f"Plan of {facts['name']}"] if facts.get("name") else []),
        *(f"  {charge}" for charge in facts["charges"]),
        *guarantee(facts["epsilon"], facts["delta"], facts["unit"]),
        f"Budget: epsilon {facts['budget']:g}; the plan {'stays within it' if facts['fits'] else 'exceeds it, and is refused'}.",
    ]
    tight = facts.get("tight_epsilon")
    if tight is not None and tight < facts["epsilon"]:
        lines.append(
            f"The same releases are epsilon {number(tight)} where their Gaussian loss is added up exactly, without the detour over "
            f"Rényi divergence; the ledger's filter counts the larger figure."
        )
    statement = facts.get("statement")
    if statement:
        lines += [
            f"A query: {statement['query']}.",
            f"Number: {statement['queries']}; planned {facts['queries']:,}.",
            f"Reach of one {facts['unit']}: {statement['sensitivity']}.",
            f"Public source: {statement['source']}.",
        ]
    return lines


def report_text(facts: Mapping[str, Any]) -> list[str]:
    """A ledger in lines. `facts` are those of `slt privacy report --json`."""
    lines = [
        f"Ledger {facts['ledger']}: {facts['lines']:,} lines, intact, head {facts['head'][:16]}…",
        *(f"  {charge}" for charge in facts["charges"] or ["nothing was released"]),
        *guarantee(facts["epsilon"], facts["delta"], facts["unit"]),
        f"Budget: epsilon {facts['budget']:g} at delta {facts['delta']:g}; left is what fits beside the above.",
        *(f"Bundle {name} was released from this ledger, at line {line}." for name, line in facts["bundles"].items()),
    ]
    if facts.get("at_delta"):
        asked = facts["at_delta"]
        lines.append(f"At delta {asked['delta']:g}: epsilon {number(asked['epsilon'])}.")
    own = facts.get("data_dependent")
    if own:
        lines += data_dependent_text(own, facts["unit"])
    return lines


def published_text(told: Mapping[str, Any]) -> list[str]:
    """A published figure in lines. `told` is that of `slt privacy report --publish --json`."""
    how = (
        f"Settings, chosen without the votes: order {told['order']:.3g}, beta {told['beta']:.3g}, noise of {told['noise']:.3g} smooth "
        f"sensitivities; {told['share_of_budget']:.1%} of the budget."
    )
    if "epsilon" not in told:
        expected = f"epsilon {number(told['expected'])} would be told if {told['agreement']:.0%} of the teachers agreed"
        return [f"Dry run: {expected}; nothing was looked at, and nothing charged.", how]
    lines = [
        f"Data-dependent, for publication: epsilon {number(told['epsilon'])} at delta {told['delta']:g} for one {told['unit']}, what "
        f"telling it cost included; with probability {told['confidence']:.0%} the noise did not carry it below the truth.",
        how,
    ]
    return [*lines, "It was told before; asked again, it costs nothing."] if told["again"] else lines


def data_dependent_text(own: Mapping[str, Any], unit: str) -> list[str]:
    """What the votes say; it may not be told."""
    return [
        f"Data-dependent, NOT for publication: epsilon {number(own['epsilon'])} at delta {own['delta']:g} for one {unit}; "
        f"{own['covered']:,} of {own['queries']:,} queries are counted by their votes."
    ]


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as the other commands print it, in lines."""
    from sltcore.cli.console import table

    return str(table(list(head), [list(row) for row in rows])).splitlines()
