"""The integer-only reference of a chip, written without regard to the emulation that it is compared with."""

from slt_nna.integer.reference import Reference
from slt_nna.integer.tensor import IntegerTensor

__all__ = ["IntegerTensor", "Reference"]
