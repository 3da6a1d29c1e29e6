"""DP-SGD by unit: sampling, clipping, exact sums, noise, and what it costs."""
