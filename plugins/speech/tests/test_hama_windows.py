"""Windows over frames: every frame leaves once, and joins lie where two windows agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slt_speech.hama.windows import AGREEMENT_FRAMES, WindowedEncoder, best_join


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_every_frame_leaves_once_and_in_order(piece: int) -> None:
    for total in range(1, 400, 3):
        frames = torch.arange(float(total))[:, None]
        windows = WindowedEncoder(lambda x: x[None], window_frames=60, overlap_frames=25)
        outputs = [windows.push(frames[start : start + piece]) for start in range(0, total, piece)]
        outputs.append(windows.finish())
        assert torch.equal(torch.cat([out[0] for out in outputs if out is not None]), frames)


def test_joins_avoid_frames_on_which_windows_disagree() -> None:
    """Frames near a window's inner edge are spoilt; the joined output must hold none of them."""
    total, window, overlap, spoilt = 1000, 200, 60, 18
    frames = torch.arange(float(total))[:, None]

    def encode_and_spoil(x: Tensor) -> Tensor:
        out = x.clone()
        if x[0] > 0:
            out[:spoilt] += 0.5
        if x[-1] < total - 1:
            out[-spoilt:] -= 0.5
        return out[None]

    windows = WindowedEncoder(encode_and_spoil, window_frames=window, overlap_frames=overlap)
    outputs = [out for out in (windows.push(frames), windows.finish()) if out is not None]
    assert torch.equal(torch.cat(outputs, 1)[0], frames)
    assert len(windows.joins) == 6  # Windows start at 0, 140, .. 700, and at 800.


def test_best_join_is_the_calmest_frame() -> None:
    later = torch.zeros(100, 3)
    earlier = torch.ones(100, 3)
    earlier[52 - AGREEMENT_FRAMES : 52 + AGREEMENT_FRAMES] = 0.0
    assert best_join(earlier, later) == 52
    assert best_join(later, later) == 50
