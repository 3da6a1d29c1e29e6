"""A chip's arithmetic in float tensors, fast and with gradients."""

from slt_nna.emulated.emulation import Emulation

__all__ = ["Emulation"]
