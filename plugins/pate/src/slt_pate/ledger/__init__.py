"""A ledger of privacy costs that is on disk before an answer leaves, and that shows when it was rolled back."""

from slt_pate.ledger.chain import Entry, History, Stamp, read_ledger
from slt_pate.ledger.charges import merge_charges
from slt_pate.ledger.ledger import Guard, Ledger
from slt_pate.ledger.private_votes import PrivateVotes, VoteRecord

__all__ = ["Entry", "Guard", "History", "Ledger", "PrivateVotes", "Stamp", "VoteRecord", "merge_charges", "read_ledger"]
