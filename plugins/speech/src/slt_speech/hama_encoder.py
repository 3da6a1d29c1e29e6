"""The `hama-conformer` encoder: the pretrained phone recogniser as a component."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from slt_speech.frames import check_single, check_waveform, with_layers
from slt_speech.hama.labels import BLANK_ID, WORD_BOUNDARY_ID
from slt_speech.hama.network import HamaConformer
from sltcore.interfaces import Encoder, Session
from sltcore.types import Encoded, Port, Waveform
from sltcore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from slt_speech.hama.session import HamaSession

FILE = "hama-labels.json"
SPECIAL_IDS = (0, 1, 2, 3)  # <pad>, <sos>, <eos>, <unk>: never emitted


class HamaEncoder(Encoder, nn.Module):
    """`HamaConformer` with ports, its CTC head and its phone labels on offer; see there for what it computes.

    **Source**: the package hama 1.7.0 (Apache-2.0); Gulati et al., arXiv:2005.08100.
    """

    def __init__(self, network: HamaConformer, vocabulary: Vocabulary | None = None) -> None:
        super().__init__()
        self.network = network
        self.vocabulary = vocabulary or Vocabulary(
            network.labels, kind="phones", blank=BLANK_ID, boundary=WORD_BOUNDARY_ID, special=SPECIAL_IDS
        )

    @property
    def head(self) -> nn.Linear:
        """Encoder frames [d] to label scores [v]."""
        return self.network.head

    @property
    def consumes(self) -> Port:
        """Samples at 16 kHz."""
        return Port("Waveform", {"sample_rate_hz": self.network.sample_rate_hz})

    @property
    def produces(self) -> Port:
        """`Encoded` [b t 144]."""
        return Port("Encoded", {"d": self.network.width, "frame_shift_s": self.network.frame_shift_s})

    @property
    def depths(self) -> int:
        """Its 4 blocks; depth 0 is the subsampled input."""
        return len(self.network.blocks)

    def keep_layers(self, depths: Sequence[int]) -> None:
        """Have `Encoded.layers` hold these depths too, offline and in sessions; **raises** `PortError` for another one."""
        self.network.layers = with_layers(self.network.layers, depths, 0, self.depths, "hama-conformer")

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames [b] of samples [b]."""
        return self.network.output_lengths(lengths)

    def offers(self) -> Mapping[str, Any]:
        """The head, the 191 phones it scores, and the front end, whose output is a tensor [b t 80]."""
        return {"head": self.head, "vocabulary": self.vocabulary, "frontend": self.network.front_end}

    def save_files(self) -> Mapping[str, bytes]:
        """The labels, so that a bundle loads without the package."""
        return {FILE: json.dumps(self.vocabulary.to_dict(), ensure_ascii=False).encode()}

    def forward(self, x: Waveform, context: Mapping[str, Any]) -> Encoded:
        """`Encoded` [b t 144] float32. **Raises** `ShapeError` for another shape or rate."""
        out: Encoded = self.network(check_waveform(x, self.network.sample_rate_hz, "hama-conformer"), context)
        return out

    def open(self, context: Mapping[str, Any]) -> Session:
        """A session whose frames equal the offline ones, window by window."""
        return HamaStream(self.network.open(context))


class HamaStream(Session):
    """A `HamaSession` fed with waveforms."""

    def __init__(self, session: HamaSession) -> None:
        self._session = session

    def push(self, chunk: Waveform, **streams: Any) -> Encoded | None:
        """The frames that are settled, or None. **Raises** `StreamError` after `finish`."""
        chunk = check_waveform(chunk, HamaConformer.sample_rate_hz, "hama-conformer")
        check_single(chunk, "hama-conformer")
        return self._session.push(chunk.samples[0, : int(chunk.lengths[0])])

    def finish(self) -> Encoded | None:
        """The remaining frames, or None."""
        return self._session.finish()
