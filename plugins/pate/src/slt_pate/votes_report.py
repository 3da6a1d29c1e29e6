"""Data-dependent figures of a ledger, from the private votes beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slt_pate.accounting.conversion import epsilon
from slt_pate.accounting.independent import rdp
from slt_pate.accounting.orders import ORDERS
from slt_pate.accounting.votes import rdp_of_votes
from slt_pate.asking import threshold_in
from slt_pate.events import Charge, Event, GaussianMax, LaplaceMax, ThresholdTest
from slt_pate.ledger import Entry, History, PrivateVotes, VoteRecord

VOTED = GaussianMax | LaplaceMax | ThresholdTest


def data_dependent_facts(path: str | Path, history: History, delta: float) -> dict[str, Any]:
    """Epsilon at delta with every query counted by its votes, where they were kept; private, as the votes are.

    A ledger line without votes of its own counts with its data-independent cost, which the other never exceeds.
    """
    votes = PrivateVotes(path).read()
    total = np.zeros(len(ORDERS))
    grouped: dict[tuple[Event, float | None, int], list[NDArray[np.int64]]] = {}
    queries = covered = 0
    for charge, threshold, record in with_votes(history.entries, votes):
        queries += charge.count
        rows = None if record is None else rows_of(charge, record, threshold)
        if rows is None:
            total = total + charge.count * rdp(charge.event, ORDERS)
        else:
            covered += charge.count
            grouped.setdefault((charge.event, threshold, rows.shape[1]), []).append(rows)
    for (event, threshold, _), parts in grouped.items():
        assert isinstance(event, VOTED)
        total = total + rdp_of_votes(event, np.concatenate(parts), ORDERS, threshold=threshold)
    spent = float(epsilon(total, ORDERS, delta)[0]) if queries else 0.0
    return {"epsilon": spent, "delta": delta, "queries": queries, "covered": covered, "private": True}


def with_votes(
    entries: Iterable[Entry], votes: Mapping[str, VoteRecord]
) -> Iterator[tuple[Charge, float | None, VoteRecord | None]]:
    """Every charge of a ledger, the threshold of a test, and the votes of its line where they were kept."""
    for entry in entries:
        for charge in entry.charges:
            threshold = threshold_in(entry.what) if isinstance(charge.event, ThresholdTest) else None
            yield charge, threshold, votes.get(entry.hash)


def rows_of(charge: Charge, record: VoteRecord, threshold: float | None) -> NDArray[np.int64] | None:
    """The votes that a charge was paid for, int64 [q v]; None where the record does not fit it."""
    if not isinstance(charge.event, VOTED) or (isinstance(charge.event, ThresholdTest) and threshold is None):
        return None
    rows = record.votes[record.answered] if isinstance(charge.event, GaussianMax) else record.votes
    return rows if len(rows) == charge.count else None
