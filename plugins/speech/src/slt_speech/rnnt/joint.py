"""The joint network of a transducer: frames and prefixes to logits of the next label."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Joint(nn.Module):
    """`logits = W_out tanh(W_e e + W_p p + b) + b_out` for frames e and prefixes p.

    The projections can be called apart, so that a search projects each frame and each prefix once. **Source**: Graves,
    Mohamed, Hinton, "Speech recognition with deep recurrent neural networks", arXiv:1303.5778, section 3.2.
    """

    def __init__(self, d_encoder: int, d_prediction: int, d: int, v: int) -> None:
        super().__init__()
        self.encoder_projection = nn.Linear(d_encoder, d)
        self.prediction_projection = nn.Linear(d_prediction, d, bias=False)
        self.output = nn.Linear(d, v)

    def project_encoder(self, encoded: Tensor) -> Tensor:
        """Frames [.. d_encoder] as the inner layer sees them: [.. d]."""
        result: Tensor = self.encoder_projection(encoded)
        return result

    def project_prediction(self, predicted: Tensor) -> Tensor:
        """Prefixes [.. d_prediction] as the inner layer sees them: [.. d]."""
        result: Tensor = self.prediction_projection(predicted)
        return result

    def combine(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Logits [.. v] of projected frames and prefixes, both [.. d] with axes that fit."""
        result: Tensor = self.output(torch.tanh(encoded + predicted))
        return result

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Logits [b t u+1 v] of every frame [b t d_encoder] with every prefix [b u+1 d_prediction]."""
        e, p = self.project_encoder(encoded), self.project_prediction(predicted)
        return self.combine(e[:, :, None], p[:, None])
