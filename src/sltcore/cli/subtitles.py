"""A hypothesis as subtitles or word times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from sltcore.errors import SltError
from sltcore.types import Hypothesis

CUE_CHARACTERS = 42  # the width that broadcasters' guides give a subtitle line
CUE_S = 6.0
GAP_S = 1.0

Word = tuple[str, float, float]


def words_of(hypothesis: Hypothesis) -> list[Word]:
    """Words with start and end in seconds; **Raises** `SltError` when the decoder gave no times."""
    words = hypothesis.extra.get("words") or hypothesis.text.split()
    if len(words) != len(hypothesis.times):
        raise SltError(
            f"the decoder gave {len(hypothesis.times)} times for {len(words)} words; subtitles need a decoder with word times, such as ctc-beam or ctc-greedy"
        )
    return [(str(word), start, end) for word, (start, end) in zip(words, hypothesis.times, strict=True)]


def cues(words: list[Word]) -> Iterator[list[Word]]:
    """Words in groups that fit on a line and are not torn over a pause."""
    group: list[Word] = []
    for word in words:
        if group:
            width = sum(len(w[0]) + 1 for w in group) + len(word[0])
            if width > CUE_CHARACTERS or word[1] - group[-1][2] > GAP_S or word[2] - group[0][1] > CUE_S:
                yield group
                group = []
        group.append(word)
    if group:
        yield group


def clock(seconds: float, mark: str) -> str:
    """Hours, minutes, seconds and milliseconds.

    >>> clock(3661.5, ",")
    '01:01:01,500'
    """
    milliseconds = round(max(seconds, 0.0) * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, rest = divmod(rest, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{mark}{rest:03d}"


def srt(hypothesis: Hypothesis, name: str) -> str:
    """SubRip."""
    blocks = [
        f"{number}\n{clock(group[0][1], ',')} --> {clock(group[-1][2], ',')}\n{' '.join(word for word, _, _ in group)}\n"
        for number, group in enumerate(cues(words_of(hypothesis)), 1)
    ]
    return "\n".join(blocks)


def vtt(hypothesis: Hypothesis, name: str) -> str:
    """WebVTT."""
    blocks = [
        f"{clock(group[0][1], '.')} --> {clock(group[-1][2], '.')}\n{' '.join(word for word, _, _ in group)}\n"
        for group in cues(words_of(hypothesis))
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def ctm(hypothesis: Hypothesis, name: str) -> str:
    """NIST CTM: recording, channel, start, duration, word."""
    return "".join(
        f"{name} 1 {start:.2f} {max(end - start, 0.0):.2f} {word}\n" for word, start, end in words_of(hypothesis)
    )


FORMATS: Mapping[str, Callable[[Hypothesis, str], str]] = {"srt": srt, "vtt": vtt, "ctm": ctm}
