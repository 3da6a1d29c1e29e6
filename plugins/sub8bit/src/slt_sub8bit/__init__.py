"""Sub-8-bit quantization: learned centroids, baselines, packed weights."""

__version__ = "0.1.0"
