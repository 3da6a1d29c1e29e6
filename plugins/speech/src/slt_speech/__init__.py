"""Speech building blocks: front ends, encoders, plain decoders, vocoders and metrics."""

__version__ = "0.1.0"
