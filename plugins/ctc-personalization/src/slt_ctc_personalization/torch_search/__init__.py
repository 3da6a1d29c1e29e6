"""The search over labels on tensors, for GPUs."""
