"""Forced alignment: the best of all alignments, found without trying them all."""

from __future__ import annotations

import itertools
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sltcore import ctc
from sltcore.alignment import Alignment, alignment_bytes, compiled, forced_alignment, viterbi
from sltcore.errors import DataError, ShapeError, VocabularyError
from sltcore.types import Targets

ENGINES: tuple[Literal["compiled", "torch"], ...] = ("compiled", "torch")


def written(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """What a path writes: equal neighbours merged, then blanks removed (Graves et al. 2006, section 3.1)."""
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def sum_over(path: tuple[int, ...], log_probs: Tensor) -> float:
    return sum(float(log_probs[t, label]) for t, label in enumerate(path))


@lru_cache(maxsize=200)
def paths_by_text(frames: int, labels: int, blank: int) -> dict[tuple[int, ...], np.ndarray]:
    """All v^t paths [n t], under what they write."""
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for path in itertools.product(range(labels), repeat=frames):
        found.setdefault(written(path, blank), []).append(path)
    return {text: np.array(paths, np.int64).reshape(len(paths), frames) for text, paths in found.items()}


def best_by_brute_force(log_probs: Tensor, ids: list[int], blank: int) -> float:
    """The greatest sum over all paths that write `ids`; -inf where there is none."""
    paths = paths_by_text(*log_probs.shape, blank).get(tuple(ids))
    if paths is None:
        return -np.inf
    return float(log_probs.double().numpy()[np.arange(len(log_probs)), paths].sum(axis=1).max())


def path_of(found: Alignment, frames: int, blank: int) -> tuple[int, ...]:
    """The label of every frame, as the spans say."""
    path = [blank] * frames
    for label, first, stop in zip(found.labels, found.first, found.stop, strict=True):
        assert path[first:stop] == [blank] * (stop - first)
        path[first:stop] = [int(label)] * (stop - first)
    return tuple(path)


def align(log_probs: Tensor, ids: list[int], *, blank: int, **options: Any) -> Alignment | None:
    lengths = torch.tensor([len(log_probs)])
    (found,) = forced_alignment(log_probs[None], lengths, ctc.pad_labels([ids]), blank=blank, **options)
    return found


@st.composite
def tiny_lattices(draw: st.DrawFn) -> tuple[Tensor, list[int], int]:
    """Up to 6 frames of 2 or 3 labels, or 4 of 4: fine values, or coarse ones whose sums are often equal and which may
    have probability zero. hypothesis chooses the sizes and the target, a seed the values."""
    frames, labels = draw(st.integers(0, 6)), draw(st.integers(2, 4))
    frames = min(frames, 4) if labels == 4 else frames
    blank = draw(st.integers(0, labels - 1))
    ids = draw(st.lists(st.sampled_from([i for i in range(labels) if i != blank]), max_size=4))
    source = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = source.uniform(-30, 0, (frames, labels))
    if draw(st.booleans()):
        rows = source.choice([0.0, -1.0, -2.0, -3.0, -np.inf], (frames, labels))
    return torch.tensor(rows, dtype=torch.float32), ids, blank


@settings(max_examples=50, deadline=None)
@given(tiny_lattices())
def test_no_alignment_is_better(lattice: tuple[Tensor, list[int], int]) -> None:
    check_against_brute_force(lattice)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(tiny_lattices())
def test_no_alignment_is_better_in_thousands_of_cases(lattice: tuple[Tensor, list[int], int]) -> None:
    check_against_brute_force(lattice)


def check_against_brute_force(lattice: tuple[Tensor, list[int], int]) -> None:
    """The score, and a path that writes the target and has that score."""
    log_probs, ids, blank = lattice
    best = best_by_brute_force(log_probs, ids, blank)
    for engine in ENGINES:
        found = align(log_probs, ids, blank=blank, keep_going=True, engine=engine)
        if best == -np.inf:
            assert found is None
            continue
        assert found is not None
        path = path_of(found, len(log_probs), blank)
        assert found.score == pytest.approx(best, abs=1e-5)
        assert written(path, blank) == tuple(ids)
        assert sum_over(path, log_probs) == pytest.approx(best, abs=1e-5)
        means = [
            float(log_probs[first:stop, label].mean())
            for label, first, stop in zip(found.labels, found.first, found.stop, strict=True)
        ]
        np.testing.assert_allclose(found.mean_log_prob, means, atol=1e-5)


def batch_of(seed: int, *, utterances: int, frames: int, labels: int, most: int) -> tuple[Tensor, Tensor, Targets]:
    """Coarse log-probabilities, so that many alignments are equally good; ragged, with NaN behind every end."""
    source = torch.Generator().manual_seed(seed)
    lengths = torch.randint(frames // 3, frames + 1, (utterances,), generator=source)
    log_probs = torch.randint(-3, 1, (utterances, frames, labels), generator=source).float()
    rows = [torch.randint(1, labels, (int(n),), generator=source).tolist() for n in
            torch.randint(0, most + 1, (utterances,), generator=source)]  # fmt: skip
    log_probs[torch.arange(frames) >= lengths[:, None]] = torch.nan
    return log_probs, lengths, ctc.pad_labels(rows)


@pytest.mark.parametrize("seed", range(12))
def test_both_engines_agree(seed: int) -> None:
    """Scores and spans bit for bit, over many blocks, with ties everywhere."""
    frames, most = (150, 40) if seed % 2 else (400, 150)
    log_probs, lengths, targets = batch_of(seed, utterances=4, frames=frames, labels=3 + seed, most=most)
    one, other = (
        forced_alignment(log_probs, lengths, targets, blank=0, keep_going=True, engine=engine) for engine in ENGINES
    )
    assert any(found is not None for found in one)
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert a.score == b.score
            for left, right in zip(a[1:4], b[1:4], strict=True):
                np.testing.assert_array_equal(left, right)
            np.testing.assert_allclose(a.mean_log_prob, b.mean_log_prob, atol=1e-9)


@pytest.mark.parametrize("every", [1, 2, 3, 7, 64, 1000])
def test_blocks_change_nothing(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs, lengths, targets = batch_of(3, utterances=3, frames=120, labels=5, most=30)
    whole = forced_alignment(log_probs, lengths, targets, blank=0, engine="torch", keep_going=True)
    monkeypatch.setattr(viterbi, "block_frames", lambda frames, labels: every)
    cut = forced_alignment(log_probs, lengths, targets, blank=0, keep_going=True)
    for a, b in zip(whole, cut, strict=True):
        assert a is not None
        assert b is not None
        assert a.score == b.score
        np.testing.assert_array_equal(a.first, b.first)
        np.testing.assert_array_equal(a.stop, b.stop)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs, lengths, targets = batch_of(5, utterances=6, frames=100, labels=5, most=20)
    alone = forced_alignment(log_probs, lengths, targets, blank=0)
    monkeypatch.setattr(viterbi, "SHARED_ABOVE", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    together = forced_alignment(log_probs, lengths, targets, blank=0)
    for a, b in zip(alone, together, strict=True):
        assert a.score == b.score
        np.testing.assert_array_equal(a.first, b.first)


@pytest.mark.parametrize("engine", ENGINES)
def test_score_bounds_the_loss(engine: Literal["compiled", "torch"]) -> None:
    """The best alignment is one of those whose probabilities the CTC loss adds up; torch adds them, not we."""
    log_probs = torch.randn(4, 60, 9, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    lengths, targets = torch.tensor([60, 50, 40, 30]), ctc.pad_labels([[1, 2, 3], [4, 4, 5, 6], [7], [8, 1] * 5])
    loss = torch.nn.functional.ctc_loss(log_probs.transpose(0, 1), *targets[:1], lengths, targets[1], reduction="none")
    for found, nats in zip(
        forced_alignment(log_probs, lengths, targets, blank=0, engine=engine), loss.tolist(), strict=True
    ):
        assert found.score < -nats


@pytest.mark.parametrize("engine", ENGINES)
def test_only_alignment_is_found(engine: Literal["compiled", "torch"]) -> None:
    """Five labels with one repeat in six frames leave one path, whatever the posteriors say."""
    log_probs = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)).log_softmax(-1)
    found = align(log_probs, [1, 2, 2, 3, 1], blank=0, engine=engine)
    assert found is not None
    assert path_of(found, 6, 0) == (1, 2, 0, 2, 3, 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_empty_targets_and_empty_batches(engine: Literal["compiled", "torch"]) -> None:
    log_probs = torch.full((1, 3, 2), -0.5)
    (found,) = forced_alignment(log_probs, torch.tensor([3]), ctc.pad_labels([[]]), blank=0, engine=engine)
    assert found.score == -1.5
    assert len(found.labels) == 0
    nothing = forced_alignment(log_probs, torch.tensor([0]), ctc.pad_labels([[]]), blank=0, engine=engine)
    assert nothing[0].score == 0.0
    assert forced_alignment(log_probs[:0], torch.tensor([]).long(), ctc.pad_labels([]), blank=0, engine=engine) == []


def test_posteriors_in_any_order_of_axes() -> None:
    """[t b v] in memory, as torch's CTC loss wants it, and float64."""
    log_probs = torch.randn(30, 2, 5, generator=torch.Generator().manual_seed(4)).log_softmax(-1)
    lengths, targets = torch.tensor([30, 20]), ctc.pad_labels([[1, 2], [3]])
    turned = forced_alignment(log_probs.transpose(0, 1), lengths, targets, blank=0)
    straight = forced_alignment(log_probs.transpose(0, 1).contiguous(), lengths, targets, blank=0)
    double = forced_alignment(log_probs.transpose(0, 1).double(), lengths, targets, blank=0)
    assert [a.score for a in turned] == [a.score for a in straight] == [a.score for a in double]


def test_the_posteriors_are_neither_copied_nor_changed() -> None:
    log_probs = torch.randn(1, 2000, 500).log_softmax(-1)
    before = log_probs.clone()
    seen: list[int] = []
    original = viterbi.align_one

    def spy(values: Any, ids: Any, *, blank: int) -> Alignment:
        seen.append(values.__array_interface__["data"][0])
        return original(values, ids, blank=blank)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(viterbi, "align_one", spy)
        forced_alignment(log_probs, torch.tensor([2000]), ctc.pad_labels([[1, 2, 3]]), blank=0)
    assert seen == [log_probs.data_ptr()]
    assert torch.equal(log_probs, before)


@pytest.mark.parametrize(("frames", "labels"), [(1, 0), (500, 100), (40_000, 3), (5000, 2000)])
def test_stated_bytes_are_those_that_are_held(frames: int, labels: int) -> None:
    from sltcore.alignment.kernel import workspace

    held = workspace(frames, labels, viterbi.block_frames(frames, labels))
    assert alignment_bytes(frames, labels) == sum(array.nbytes for array in held)


def test_an_hour_takes_megabytes() -> None:
    """180,000 frames and 60,000 characters: a table of two bits for each state and frame would take 5.4 GB."""
    assert 180_000 * (2 * 60_000 + 1) / 4 > 5.3e9
    assert alignment_bytes(180_000, 60_000) < 64e6


@pytest.mark.parametrize("engine", ENGINES)
def test_what_cannot_be_aligned_is_named(engine: Literal["compiled", "torch"]) -> None:
    log_probs = torch.full((2, 4, 3), -1.0)
    lengths, targets = torch.tensor([4, 3]), ctc.pad_labels([[1], [1, 1, 2]])
    options: dict[str, Any] = {"blank": 0, "engine": engine}
    with pytest.raises(DataError, match=r"utterance 'b': its 3 labels need 4 frames, but it has 3; leave it out"):
        forced_alignment(log_probs, lengths, targets, ids=["a", "b"], **options)
    kept = forced_alignment(log_probs, lengths, targets, keep_going=True, **options)
    assert kept[0] is not None
    assert kept[1] is None
    log_probs[1, :, 2] = -torch.inf
    short = ctc.pad_labels([[1], [2]])
    with pytest.raises(DataError, match="utterance 1: no alignment of its 1 labels is possible"):
        forced_alignment(log_probs, lengths, short, **options)
    assert forced_alignment(log_probs, lengths, short, keep_going=True, **options)[1] is None


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("engine", ENGINES)
def test_posteriors_that_are_no_numbers_are_refused(engine: Literal["compiled", "torch"], bad: float) -> None:
    log_probs = torch.full((1, 40, 3), -1.0)
    log_probs[0, 20, 0] = bad
    with pytest.raises(DataError, match=r"utterance 'x': its posteriors hold NaN or \+infinity; expected log-prob"):
        forced_alignment(
            log_probs, torch.tensor([40]), ctc.pad_labels([[1, 2]]), blank=0, ids=["x"], keep_going=True, engine=engine
        )


def test_wrong_axes_and_labels_are_refused() -> None:
    log_probs, lengths, targets = torch.zeros(2, 5, 3), torch.tensor([5, 5]), ctc.pad_labels([[1], [2]])
    with pytest.raises(ShapeError, match=r"log_probs has shape \(5, 3\) with lengths \(2,\) and targets \(2, 1\)"):
        forced_alignment(log_probs[0], lengths, targets, blank=0)
    with pytest.raises(ShapeError, match="utterance 1: 6 frames are claimed, but at most 5 are given"):
        forced_alignment(log_probs, torch.tensor([5, 6]), targets, blank=0)
    with pytest.raises(ShapeError, match="utterance 0: 2 labels are claimed, but at most 1 are given"):
        forced_alignment(log_probs, lengths, Targets(targets.ids, torch.tensor([2, 1])), blank=0)
    with pytest.raises(ShapeError, match="ids names 1 utterances, but there are 2"):
        forced_alignment(log_probs, lengths, targets, blank=0, ids=["a"])
    with pytest.raises(VocabularyError, match="blank is 3, but the posteriors have 3 labels, from 0 to 2"):
        forced_alignment(log_probs, lengths, targets, blank=3)
    with pytest.raises(VocabularyError, match="utterance 1: target id 2 in place 0 is the blank"):
        forced_alignment(log_probs, lengths, targets, blank=2)
    with pytest.raises(
        VocabularyError, match="utterance 'b': target id 9 in place 0 is no label; the labels run from 0"
    ):
        forced_alignment(log_probs, lengths, ctc.pad_labels([[1], [9]]), blank=0, ids=["a", "b"])


def test_machine_code_is_kept_in_the_cache_folder_where_one_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled._settings, "CACHE_DIR", "")
    monkeypatch.setenv("SLT_CACHE", str(tmp_path / "cache"))
    assert compiled.kernel_folder.__wrapped__() == (tmp_path / "cache" / "kernels").resolve()
    monkeypatch.setattr(compiled._settings, "CACHE_DIR", str(tmp_path / "numba"))
    assert compiled.kernel_folder.__wrapped__() == tmp_path / "numba"
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(compiled._settings, "CACHE_DIR", "")
    monkeypatch.setenv("SLT_CACHE", str(tmp_path / "file"))
    assert compiled.kernel_folder.__wrapped__() is None


def test_a_long_compilation_is_announced_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Kernel:
        __name__ = "slow"
        overloads: tuple[int, ...] = ()

        def __call__(self, value: int) -> int:
            if not self.overloads:
                time.sleep(0.2)
            self.overloads = (1,)
            return value

    kernel = Kernel()
    monkeypatch.setattr(compiled, "ANNOUNCE_AFTER_S", 0.01)
    monkeypatch.setattr(compiled, "kernel_folder", lambda: None)
    assert [compiled.first_call(kernel, value) for value in (1, 2)] == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "compiling slow for this machine, once, a few seconds; not kept: no cache folder can be written, set SLT_CACHE to one"
    ]
