"""Forced alignment: when each label and word of a known text was said, by the Viterbi search over a CTC head."""

from sltcore.alignment.recordings import AlignedText, Unit, align
from sltcore.alignment.viterbi import Alignment, alignment_bytes, forced_alignment

__all__ = ["AlignedText", "Alignment", "Unit", "align", "alignment_bytes", "forced_alignment"]
