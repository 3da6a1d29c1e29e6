"""What a release pipeline is told: conflicts, false insertions, and a gate with an exit code."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from adapter_bundles import base_bundle, drawn, drawn_file
from adapter_models import by_hand, drawn_update, frames, tower
from typer.testing import CliRunner

import sltcore
from slt_residual_adapters.added import add
from slt_residual_adapters.commands import app
from slt_residual_adapters.conflicts import Moves
from slt_residual_adapters.release_check import Limits, check_release, word_errors
from slt_residual_adapters.residual_adapters import ResidualAdapters
from slt_residual_adapters.selection import occurrences
from slt_residual_adapters.update import Update, save_update
from sltcore.errors import DataError, PluginError
from sltcore.types import Item

pytest.importorskip("slt_speech")


def turned(update: Update, name: str, sign: float) -> Update:
    """The same update under another name, its effect times `sign`."""
    tensors = {place: {**parts, "up": sign * parts["up"]} for place, parts in update.tensors.items()}
    return Update(**{**update.__dict__, "name": name, "tensors": tensors})


def watched(updates: list[Update], x: torch.Tensor, **options: Any) -> Moves:
    model = tower(torch.float64)
    adapters = ResidualAdapters(updates=updates, **options)
    adapters.attach(model)
    moves = Moves(adapters)
    with torch.no_grad(), moves.watching(), adapters.use({"updates": []}):
        model(x[:1])
        model(x[1:])
    return moves


def test_moves_and_conflicts_are_those_of_sums_by_hand() -> None:
    base = tower(torch.float64)
    updates = [drawn_update(base, name, places=("blocks.1",), dtype=torch.float64) for name in ("monday", "friday")]
    x = frames(3, 5, dtype=torch.float64)
    moves = watched(updates, x, weights={"friday": 0.5})
    with torch.no_grad():
        y = base.blocks[1](base.blocks[0](x))
    a, b = by_hand(updates[0], "blocks.1", y), 0.5 * by_hand(updates[1], "blocks.1", y)
    first, second = moves.moves()
    assert (first.name, first.place) == ("monday", "blocks.1")
    assert first.relative == pytest.approx(float(a.norm() / y.norm()), rel=1e-9)
    assert second.largest == pytest.approx(float(b.norm() / y.norm()), rel=1e-9)
    assert moves.together() == pytest.approx(float((a + b).norm() / y.norm()), rel=1e-9)
    (pair,) = moves.conflicts()
    size = float(a.norm() * b.norm())
    assert pair.same_frames == pytest.approx(float((a.norm(dim=-1) * b.norm(dim=-1)).sum()) / size, rel=1e-9)
    assert pair.agreement == pytest.approx(float((a * b).sum()) / size, rel=1e-9)
    one, other = a.flatten(0, 1).mean(0), b.flatten(0, 1).mean(0)
    assert pair.mean_cosine == pytest.approx(float(one @ other / (one.norm() * other.norm())), rel=1e-9)


@pytest.mark.parametrize("mode", ["average", "stack"])
def test_together_is_told_of_the_fusion_that_is_there(mode: Any) -> None:
    base = tower(torch.float64)
    updates = [drawn_update(base, name, places=("blocks.1",), dtype=torch.float64) for name in ("monday", "friday")]
    x = frames(3, 5, dtype=torch.float64)
    with torch.no_grad():
        y = base.blocks[1](base.blocks[0](x))
    first = by_hand(updates[0], "blocks.1", y)
    second = by_hand(updates[1], "blocks.1", y + first if mode == "stack" else y)
    expected = (first + second) / (2 if mode == "average" else 1)
    found = watched(updates, x, fusion=mode)
    assert found.together() == pytest.approx(float(expected.norm() / y.norm()), rel=1e-9)


def test_two_of_a_kind_agree_and_opposites_cancel() -> None:
    update = drawn_update(tower(torch.float64), "monday", dtype=torch.float64)
    x = frames(3, 5, dtype=torch.float64)
    same = watched([update, turned(update, "twin", 2.0)], x).conflicts()[0]
    opposite = watched([update, turned(update, "twin", -1.0)], x)
    assert (same.same_frames, same.agreement, same.mean_cosine) == pytest.approx((1, 1, 1))
    against = opposite.conflicts()[0]
    assert (against.same_frames, against.agreement, against.mean_cosine) == pytest.approx((1, -1, -1))
    assert opposite.together() == pytest.approx(0, abs=1e-9)
    silent = watched([update, turned(update, "twin", 0.0)], x)
    assert silent.moves()[1].relative == 0
    assert silent.conflicts()[0].same_frames == 0


def brute_errors(reference: tuple[str, ...], heard: tuple[str, ...]) -> int:
    """Least errors by recursion over every alignment."""
    if not reference or not heard:
        return len(reference) + len(heard)
    return min(
        brute_errors(reference[1:], heard[1:]) + (reference[0] != heard[0]),
        brute_errors(reference[1:], heard) + 1,
        brute_errors(reference, heard[1:]) + 1,
    )


def test_word_errors_are_the_fewest() -> None:
    for n, m in product(range(5), repeat=2):
        for k in range(12):
            generator = np.random.default_rng([n, m, k])
            one, other = (tuple(generator.choice(["a", "b", "c"], size)) for size in (n, m))
            assert word_errors(one, other) == brute_errors(one, other)


@pytest.mark.parametrize(
    ("text", "phrase", "count"),
    [
        ("", "a", 0),
        ("a b a", "a", 2),
        ("a a a", "a a", 1),
        ("B a", "b A", 1),
        ("ab a", "b", 0),
        ("a", "", 0),
        ("Play A, B!", "a b", 1),
        ("it's \u201cab\u201d.", "ab", 1),
        ("its", "it's", 0),
        ("- a", "a", 1),
        ("a - b", "A B.", 1),
    ],
)
def test_occurrences_are_of_whole_words_in_a_row(text: str, phrase: str, count: int) -> None:
    assert occurrences(text, phrase) == count


# -- the gate, on a recogniser of four letters


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base, and a manifest of six sounds whose texts are what the base hears with one word changed."""
    folder = tmp_path_factory.mktemp("general")
    base = base_bundle(folder / "base")
    pipeline = sltcore.load(base)
    lines = []
    for k in range(6):
        sound = 0.1 * np.random.default_rng(k).standard_normal(16000).astype(np.float32)
        soundfile.write(folder / f"{k}.wav", sound, 16000)
        text = pipeline(str(folder / f"{k}.wav")).text
        said = " ".join([*text.split(), "zz"])  # one deletion each
        lines.append(json.dumps({"audio": f"{k}.wav", "text": said}))
    (folder / "general.jsonl").write_text("\n".join(lines) + "\n")
    return base, folder / "general.jsonl"


def check(bundle: Path, manifest: Path, *options: str, code: int) -> tuple[dict[str, Any], str]:
    answer = CliRunner().invoke(app, ["check", str(bundle), str(manifest), "--json", *options])
    assert answer.exit_code == code, answer.output
    return json.loads(answer.stdout), answer.stderr


def copied(base: Path, place: Path) -> Path:
    import shutil

    return Path(shutil.copytree(base, place))


@pytest.mark.slow
def test_silent_updates_pass_the_gate(general: tuple[Path, Path], tmp_path: Path) -> None:
    base, manifest = general
    bundle = copied(base, tmp_path / "bundle")
    add(bundle, [drawn_file(bundle, tmp_path, name, scale=0.0, words=("ab",)) for name in ("monday", "friday")])
    found, _ = check(bundle, manifest, code=0)
    assert (found["increase"], found["together"], found["failures"]) == (0.0, 0.0, [])
    assert found["utterances"] == 6
    assert found["wer"] == found["base_wer"] > 0
    text = CliRunner().invoke(app, ["check", str(bundle), str(manifest)])
    assert text.exit_code == 0
    assert re.search(r"word errors: .* \+0.00 % of the base's", text.output)


@pytest.mark.slow
def test_loud_updates_fail_it_and_the_reasons_are_said(general: tuple[Path, Path], tmp_path: Path) -> None:
    base, manifest = general
    bundle = copied(base, tmp_path / "bundle")
    update = drawn(bundle, "monday", scale=30.0)
    add(
        bundle,
        [save_update(one, tmp_path / f"{one.name}.safetensors") for one in (update, turned(update, "twin", 1.0))],
    )
    words = sltcore.load(bundle)(str(manifest.parent / "0.wav")).text.split()
    found, told = check(bundle, manifest, "--same-frames", "0.9", code=1)
    assert found["wer"] > found["base_wer"]
    assert "word errors on general audio rises by" in told
    assert re.search(r"updates 'monday' and 'twin' move the same frames \(1\.00\), allowed are 0\.90", told)
    assert words  # the loud updates still write something
    alone, _ = check(bundle, manifest, "--only", "twin", "--wer-increase", "100000", code=0)
    assert [move["name"] for move in alone["moves"]] == ["twin"]
    assert alone["conflicts"] == []


def test_false_insertions_are_counted_for_the_update_that_teaches_the_word(
    general: tuple[Path, Path], tmp_path: Path
) -> None:
    base, manifest = general
    bundle = copied(base, tmp_path / "bundle")
    loud = drawn(bundle, "monday", scale=30.0)
    add(bundle, [save_update(loud, tmp_path / "loud.safetensors")])
    heard = sltcore.load(bundle)(str(manifest.parent / "0.wav")).text.split()
    word = next(word for word in heard)
    pipeline = sltcore.load(base_bundle(tmp_path / "again"))
    taught = Update(**{**loud.__dict__, "words": (word, "never heard")})
    pipeline.transforms.append(ResidualAdapters(updates=[taught]))
    pipeline.transforms[-1].attach(pipeline.model)
    pipeline.context_keys = {key.name: key for key in pipeline.transforms[-1].context_keys()}
    items = [Item("0", str(manifest.parent / "0.wav"), "zz")]
    found = check_release(pipeline, items, limits=Limits(wer_increase=None))
    (one,) = found.insertions
    plain = pipeline(str(manifest.parent / "0.wav"), updates=[]).text
    assert one == ("monday", occurrences(plain, word), occurrences(" ".join(heard), word))
    assert bool(found.failures) == (one.updated > one.base)
    assert check_release(pipeline, items, limits=Limits(None, False, one.updated)).failures == ()


@pytest.mark.slow
def test_the_upper_end_of_the_interval_can_be_asked_of(general: tuple[Path, Path], tmp_path: Path) -> None:
    base, manifest = general
    bundle = copied(base, tmp_path / "bundle")
    add(bundle, [drawn_file(bundle, tmp_path, "monday", scale=30.0)])
    found, _ = check(bundle, manifest, "--wer-increase", "1", "--upper", code=1)
    assert found["increase_low"] <= found["increase"] <= found["increase_high"]
    assert "may rise by" in found["failures"][0]


def test_what_cannot_be_checked_is_told(general: tuple[Path, Path]) -> None:
    base, manifest = general
    pipeline = sltcore.load(base)
    with pytest.raises(PluginError, match="the pipeline has no updates to check; add some with `slt adapters add`"):
        check_release(pipeline, [Item("0", "x.wav", "a")])
    pipeline.transforms.append(ResidualAdapters(updates=[drawn(base, "monday")]))
    pipeline.transforms[0].attach(pipeline.model)
    with pytest.raises(DataError, match="no utterance has a text"):
        check_release(pipeline, [Item("0", str(manifest.parent / "0.wav"))])
    with pytest.raises(PluginError, match=r"no update is named 'mondy'"):
        check_release(pipeline, [Item("0", "x.wav", "a")], names=["mondy"])
