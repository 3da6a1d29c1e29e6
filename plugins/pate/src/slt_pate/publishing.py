"""A data-dependent epsilon that may leave: planned without the votes, charged to the ledger, told once.

The figure is a function of private votes, so telling it is a release like any other.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri_exp

from slt_pate.accounting.conversion import slack
from slt_pate.accounting.filter import RdpFilter
from slt_pate.accounting.published_noise import noise_cost
from slt_pate.accounting.smooth_sensitivity import Answered, local_sensitivities, published_epsilon, stepped
from slt_pate.events import Charge, Event, GaussianMax, Publication, ThresholdTest
from slt_pate.ledger import Entry, History, Ledger, PrivateVotes, VoteRecord, read_ledger
from slt_pate.ledger.durable import sync, sync_folder, write_all
from slt_pate.votes_report import rows_of, with_votes
from sltcore.errors import PrivacyError

SUFFIX = ".published.jsonl"
ORDERS = tuple(float(order) for order in np.geomspace(1.5, 64, 24))
BETAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
"""Shares of the largest beta that an order bears."""
NOISES = tuple(float(noise) for noise in np.geomspace(0.5, 1000, 24))


class Releases(NamedTuple):
    """What is public of a ledger's votes: how many queries were answered with which noise, and put to which test."""

    answers: int
    sigma: float
    tests: int = 0
    test_sigma: float | None = None
    threshold: float | None = None


class Settings(NamedTuple):
    """Order, beta and noise of a publication, and the epsilon that is expected of them."""

    order: float
    beta: float
    noise: float
    expected: float

    def event(self, confidence: float) -> Publication:
        """What the ledger is charged for it."""
        return Publication(self.beta, self.noise, quantile(confidence))


def quantile(confidence: float) -> float:
    """z with P(Z >= -z) = confidence. **Raises** `PrivacyError` for none from 0.5 to below 1."""
    if not 0.5 <= confidence < 1:
        raise PrivacyError(f"confidence is {confidence!r}, expected a probability from 0.5 to below 1")
    return float(ndtri_exp(math.log(confidence)))


def plan_publication(
    releases: Releases, *, teachers: int, classes: int, delta: float, guard: RdpFilter, agreement: float = 0.9,
    confidence: float = 0.99,
) -> Settings:  # fmt: skip
    """The settings of the least epsilon that would be told if a share `agreement` of the teachers agreed in every query, the
    others spread evenly, among those whose cost `guard` still allows. No vote is looked at.

    **Raises** `PrivacyError` where the budget has no room for any, or for values outside their ranges.
    """
    _check(teachers, classes, agreement)
    z = quantile(confidence)
    votes = imagined(releases.answers, teachers=teachers, classes=classes, agreement=agreement)
    tested = imagined(releases.tests, teachers=teachers, classes=classes, agreement=agreement)
    likely = _answered(votes, tested, releases)
    best: Settings | None = None
    for order in ORDERS:
        told, moves = stepped(likely, order), local_sensitivities(likely, order, teachers)
        for share in BETAS:
            beta = share * math.log(order / (order - 1)) / 2
            smooth = float((moves * np.exp(-beta * np.arange(moves.size))).max())
            for noise in NOISES:
                cost = noise_cost(order, beta=beta, noise=noise, quantile=z)
                expected = told + noise * smooth * z + cost + float(slack(order, delta))
                better = best is None or expected < best.expected
                if better and guard.allows([Charge(Publication(beta, noise, z))]):
                    best = Settings(order, beta, noise, expected)
    if best is None:
        raise PrivacyError(
            f"{guard.remaining():.2%} of the budget is left, and no publication costs so little; nothing was told. Next: keep "
            f"some of the budget for it (a larger epsilon in the ledger's terms, or fewer queries)"
        )
    return best


def imagined(queries: int, *, teachers: int, classes: int, agreement: float) -> NDArray[np.int64]:
    """Votes int64 [q v] of teachers of whom a share agrees, the others spread over the other classes."""
    row = np.zeros(classes, dtype=np.int64)
    row[0] = round(agreement * teachers)
    others = teachers - int(row[0])
    row[1:] = others // (classes - 1)
    row[1 : 1 + others % (classes - 1)] += 1
    return np.tile(row, (queries, 1))


def publish(
    ledger: str | Path, *, teachers: int, agreement: float = 0.9, confidence: float = 0.99, dry_run: bool = False
) -> dict[str, Any]:
    """Tell a data-dependent epsilon of all releases in a ledger, at its delta.

    The cost of telling is on disk before the figure is computed; the figure is kept beside the ledger, and given again at no
    cost as long as nothing else was released. `teachers`: at least as many as voted. `agreement`: a guess, made without
    looking, that settings are chosen for; a bad one costs accuracy, not privacy. `dry_run`: settings and cost alone.

    **Raises** `PrivacyError` where votes are missing, releases are of other mechanisms than gnmax and confident-gnmax or of
    several noises, or the budget has no room.
    """
    history = read_ledger(ledger)
    known = _kept(ledger).get(history.hashes[-1])
    if known is not None:
        return {**known, "again": True}
    terms = history.terms
    releases, votes, tested = _gathered(ledger, history)
    guard = RdpFilter(terms["epsilon"], terms["delta"])
    with Ledger.open(
        ledger,
        guard=guard,
        terms={key: value for key, value in terms.items() if key not in ("epsilon", "delta", "unit")},
        **{key: terms[key] for key in ("epsilon", "delta", "unit")},
    ) as opened:
        if opened.head != history.hashes[-1]:
            raise PrivacyError(f"ledger {ledger} grew while it was read; nothing was told. Next: try again")
        settings = plan_publication(
            releases, teachers=teachers, classes=max(votes.shape[1], 2), delta=terms["delta"], guard=guard,
            agreement=agreement, confidence=confidence,
        )  # fmt: skip
        event = settings.event(confidence)
        found: dict[str, Any] = {
            "order": settings.order, "beta": settings.beta, "noise": settings.noise, "teachers": teachers,
            "agreement": agreement, "confidence": confidence, "expected": settings.expected, "delta": terms["delta"],
            "unit": terms["unit"], "share_of_budget": guard.cost([Charge(event)]) / guard.budget,
        }  # fmt: skip
        if dry_run:
            return found
        if int(votes.sum(axis=1).max(initial=0)) > teachers:
            raise PrivacyError(f"more than {teachers} teachers voted; expected teachers to be at least as many as did")
        opened.append([Charge(event)], f"a data-dependent epsilon of {releases.answers} answers")
        told = published_epsilon(
            _answered(votes, tested, releases), terms["delta"], order=settings.order, beta=settings.beta,
            noise=settings.noise, teachers=teachers, confidence=confidence,
        )  # fmt: skip
        found |= {"epsilon": told.epsilon, "cost_of_publishing": told.cost_of_publishing}
        _keep(ledger, opened.head, found)
    return {**found, "again": False}


def _gathered(ledger: str | Path, history: History) -> tuple[Releases, NDArray[np.int64], NDArray[np.int64]]:
    """What was released, and its votes; those of fewer classes have none in the others."""
    answers: dict[float, list[NDArray[np.int64]]] = {}
    tests: dict[tuple[float, float], list[NDArray[np.int64]]] = {}
    for charge, threshold, rows in _votes_of(history.entries, PrivateVotes(ledger).read()):
        if isinstance(charge.event, Publication):
            raise PrivacyError(
                f"ledger {ledger} has told a data-dependent epsilon and released more since; a second one would have to count "
                f"the first. Next: the data-independent figure of slt privacy report"
            )
        if not isinstance(charge.event, GaussianMax | ThresholdTest):
            raise PrivacyError(
                f"ledger {ledger} has releases of {type(charge.event).__name__}; a data-dependent epsilon is published for gnmax "
                f"and confident-gnmax alone"
            )
        if rows is None:
            raise PrivacyError(
                f"ledger {ledger}: {charge.count:,} releases have no votes beside them; expected those of every release in "
                f"{PrivateVotes(ledger).path}"
            )
        if isinstance(charge.event, GaussianMax):
            answers.setdefault(charge.event.sigma, []).append(rows)
        else:
            assert threshold is not None
            tests.setdefault((charge.event.sigma, threshold), []).append(rows)
    if len(answers) != 1 or len(tests) > 1:
        raise PrivacyError(
            f"ledger {ledger} has answers with {len(answers)} noises and {len(tests)} kinds of threshold test; a data-dependent "
            f"epsilon is published for one noise, and at most one test"
        )
    ((sigma, parts),) = answers.items()
    (test_sigma, threshold), tested = next(iter(tests.items()), ((None, None), []))
    classes = max(rows.shape[1] for rows in [*parts, *tested])
    votes, asked = _joined(parts, classes), _joined(tested, classes)
    return Releases(len(votes), sigma, len(asked), test_sigma, threshold), votes, asked


def _votes_of(
    entries: Sequence[Entry], votes: Mapping[str, VoteRecord]
) -> Iterator[tuple[Charge, float | None, NDArray[np.int64] | None]]:
    for charge, threshold, record in with_votes(entries, votes):
        event: Event = charge.event
        has_rows = record is not None and isinstance(event, GaussianMax | ThresholdTest)
        yield charge, threshold, rows_of(charge, record, threshold) if has_rows and record is not None else None


def _joined(parts: Sequence[NDArray[np.int64]], classes: int) -> NDArray[np.int64]:
    padded = [np.pad(rows, ((0, 0), (0, classes - rows.shape[1]))) for rows in parts]
    return np.concatenate(padded) if padded else np.zeros((0, classes), dtype=np.int64)


def _answered(votes: NDArray[np.int64], tested: NDArray[np.int64], releases: Releases) -> Answered:
    if not releases.tests:
        return Answered(votes, releases.sigma)
    return Answered(votes, releases.sigma, tested, releases.test_sigma, releases.threshold)


def _kept(ledger: str | Path) -> dict[str, dict[str, Any]]:
    """What was told before, by the hash of the ledger's line; lines that were cut are passed over."""
    path = Path(f"{ledger}{SUFFIX}")
    found: dict[str, dict[str, Any]] = {}
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            data = json.loads(line)
            found[data.pop("line")] = data
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def _keep(ledger: str | Path, head: str, told: Mapping[str, Any]) -> None:
    path = Path(f"{ledger}{SUFFIX}")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            write_all(descriptor, b"\n" * torn + json.dumps({"line": head, **told}, sort_keys=True).encode() + b"\n")
            sync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(path.parent)
    except OSError as error:
        raise PrivacyError(f"{path} cannot be written: {error.strerror}; the figure was counted and is lost") from None


def _check(teachers: int, classes: int, agreement: float) -> None:
    if isinstance(teachers, bool) or not isinstance(teachers, int) or teachers < 1:
        raise PrivacyError(f"teachers is {teachers!r}, expected a whole number from 1 on")
    if classes < 2 or not 0 < agreement <= 1:
        raise PrivacyError(
            f"classes is {classes!r} and agreement {agreement!r}, expected at least 2 and a share above 0, at most 1"
        )
