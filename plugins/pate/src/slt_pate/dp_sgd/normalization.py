"""Released gradients brought to one size layer by layer; that is post-processing and costs nothing."""

from __future__ import annotations

from typing import Literal

import torch

from slt_pate.dp_sgd.clipped_sum import ClippedSum

NormalizationName = Literal["none", "layer", "trust"]


def normalize(clipped: ClippedSum, kind: NormalizationName) -> None:
    """Scale what `ClippedSum.release` left in `.grad`, layer by layer.

    `layer`: g_l sqrt(p_l / p) / |g_l|, so that the whole has norm 1 and all layers the same mean square. `trust`: g_l |w_l| /
    |g_l|, or g_l / |g_l| where the weights are zero.

    **Source**: You et al. 2017, arXiv:1708.03888 (`trust`); Pelikan et al. 2025, arXiv:2310.00098, join clipping by layer with the
    layer-wise normalisation that LAMB has. LAMB scales Adam's direction; here the gradient itself is scaled, before the
    optimizer, so SGD is the optimizer to go with it.
    """
    if kind == "none":
        return
    places = iter(clipped.parameters)
    size = clipped.gradient.numel()
    for layer in clipped.modules:
        own, start = [], layer.start
        while start < layer.stop:
            parameter = next(places)
            own.append(parameter)
            start += parameter.numel()
        gradients = [parameter.grad for parameter in own if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if norm == 0:
            continue
        if kind == "layer":
            factor = ((layer.stop - layer.start) / size) ** 0.5 / norm
        else:
            weights = torch.nn.utils.get_total_norm([parameter.detach() for parameter in own])
            factor = torch.where(weights > 0, weights, 1.0) / norm
        for gradient in gradients:
            gradient.mul_(factor)
