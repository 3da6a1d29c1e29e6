"""Metrics, against dynamic programmes, enumerations and integrals of their definitions."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from slt_speech.build_decoders import cer, keyword_f1, mel_cepstral_distortion, per, wer
from slt_speech.config_decoders import (
    CharacterErrorConfig,
    KeywordF1Config,
    MelCepstralDistortionConfig,
    PhoneErrorConfig,
    WordErrorConfig,
)
from slt_speech.mel_cepstrum import mel_alpha, mel_cepstrum, power_spectrum, warp
from slt_speech.metrics.items import Normalization
from slt_speech.metrics.keyword_f1 import KeywordF1
from slt_speech.metrics.mel_cepstral_distortion import MelCepstralDistortion, frame_distances, warping_path
from slt_speech.metrics.word_error import ErrorRate
from sltcore.audio import Recording
from sltcore.errors import DataError, ShapeError
from sltcore.experiment.bootstrap import interval
from sltcore.plugin import Ports
from sltcore.types import Features, Hypothesis, NBest, Waveform


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein's recursion, written down plainly."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def sentences(count: int, *, words: str = "a b c dd", longest: int = 8, seed: int = 0) -> list[str]:
    source = random.Random(seed)
    return [" ".join(source.choices(words.split(), k=source.randint(0, longest))) for _ in range(count)]


# --- error rates


@pytest.mark.parametrize("unit", ["words", "characters", "phones"])
def test_errors_are_the_edit_distance(unit: str) -> None:
    metric = ErrorRate(unit)  # type: ignore[arg-type]
    said, meant = sentences(200, seed=1), sentences(200, seed=2)
    metric.update(said, meant)
    stats = metric.per_item()
    split = list if unit == "characters" else str.split
    assert stats[:, :3].sum(1).tolist() == [distance(split(m), split(s)) for m, s in zip(meant, said, strict=True)]
    assert stats[:, 3].tolist() == [len(split(m)) for m in meant]
    # what is missing or too much explains the difference in length
    lengths = [len(split(s)) - len(split(m)) for m, s in zip(meant, said, strict=True)]
    assert (stats[:, 2] - stats[:, 1]).tolist() == lengths
    total = 100 * stats[:, :3].sum() / stats[:, 3].sum()
    assert metric.reduce(stats)[metric.name].value == pytest.approx(total)


def test_kinds_of_error_by_hand() -> None:
    metric = wer(WordErrorConfig(), Ports())
    metric.update(
        [NBest([Hypothesis("the cat sat on mat"), Hypothesis("x")]), "a a b"], ["the cat sat on the mat", "a c"]
    )
    assert metric.per_item().tolist() == [[0, 1, 0, 6], [1, 0, 1, 2]]
    values = {name: value.value for name, value in metric.reduce(metric.per_item()).items()}
    assert values == pytest.approx(
        {"wer": 37.5, "wer-substitutions": 12.5, "wer-deletions": 12.5, "wer-insertions": 12.5, "wer-items": 100.0}
    )
    assert set(values) == set(metric.directions)


def test_empty_references_count_insertions() -> None:
    metric = ErrorRate()
    metric.update(["", "well well", "yes"], ["", "", "yes"])
    assert metric.per_item().tolist() == [[0, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]
    assert metric.reduce(metric.per_item())["wer"].value == pytest.approx(200.0)
    assert math.isnan(metric.reduce(metric.per_item()[:2])["wer"].value)
    assert math.isnan(metric.reduce(metric.per_item()[:0])["wer-items"].value)


def test_normalization_is_what_the_configuration_says() -> None:
    said, meant = ["Don't press 9"], ["don’t press... 9!"]
    for config, errors in (
        (WordErrorConfig(), 0),
        (WordErrorConfig(lowercase=False), 1),
        (WordErrorConfig(punctuation="keep"), 3),
    ):
        metric = wer(config, Ports())
        metric.update(said, meant)
        assert metric.per_item()[0, :3].sum() == errors, str(metric.normalization)
    assert str(Normalization()) == "NFC, lower-cased, punctuation removed, white space collapsed"
    assert (
        Normalization()("rock 'n' roll—e\u0301t\u00e9, it's 5€ o'clock'") == "rock n roll \u00e9t\u00e9 it's 5 o'clock"
    )


def test_phones_keep_case_and_marks_and_characters_count_spaces() -> None:
    phones = per(PhoneErrorConfig(), Ports())
    phones.update(["A t͡ʃ ."], ["a t͡ʃ ."])
    assert phones.per_item().tolist() == [[1, 0, 0, 3]]
    letters = cer(CharacterErrorConfig(), Ports())
    letters.update(["ab"], ["a b"])
    assert letters.per_item().tolist() == [[0, 1, 0, 3]]


def test_rows_keep_ids_and_groups_until_reset() -> None:
    metric = ErrorRate()
    metric.update(["a"], ["a"], ids=["x"], groups=["speaker"])
    metric.update(["b", "c"], ["a", "c"])
    assert (metric.ids, metric.groups) == (("x", "1", "2"), ("speaker", "1", "2"))
    metric.reset()
    assert metric.per_item().shape == (0, 4)
    assert not metric.ids
    assert not metric.groups


def test_a_metric_feeds_the_bootstrap() -> None:
    metric = ErrorRate()
    metric.update(sentences(60, seed=1), sentences(60, seed=2))
    found = interval(metric.per_item(), metric.reduce, replicates=200, generator=np.random.default_rng(0))
    assert found["wer"].low < found["wer"].value < found["wer"].high
    assert found["wer"].unit == "%"


def test_bad_items_are_refused() -> None:
    metric = ErrorRate()
    with pytest.raises(ShapeError, match="2 outputs were given with 1 references"):
        metric.update(["a", "b"], ["a"])
    with pytest.raises(ShapeError, match="1 outputs were given with 2 ids"):
        metric.update(["a"], ["a"], ids=["x", "y"])
    with pytest.raises(DataError, match="got int: 3"):
        metric.update([3], ["a"])
    with pytest.raises(ShapeError, match=r"expected \(m, 4\): substitutions, deletions"):
        metric.reduce(np.zeros((2, 3)))
    assert not metric.ids


# --- keywords


def positions(words: list[str], keywords: list[list[str]]) -> set[tuple[int, int]]:
    """Leftmost, longest, without overlap: by elimination from all occurrences."""
    found = {(i, i + len(k)) for k in keywords for i in range(len(words)) if words[i : i + len(k)] == k}
    kept: set[tuple[int, int]] = set()
    for start, stop in sorted(found, key=lambda span: (span[0], -span[1])):
        if all(start >= other for _, other in kept):
            kept.add((start, stop))
    return kept


def alignments(a: list[str], b: list[str]) -> list[tuple[int, dict[int, int]]]:
    """Every alignment of two texts: (errors, equal words)."""
    found = []
    for size in range(min(len(a), len(b)) + 1):
        for left in itertools.combinations(range(len(a)), size):
            for right in itertools.combinations(range(len(b)), size):
                pairs = dict(zip(left, right, strict=True))
                equal = {i: j for i, j in pairs.items() if a[i] == b[j]}
                found.append((len(a) + len(b) - size - len(equal), equal))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_aligned_hits_are_those_of_a_best_alignment(seed: int) -> None:
    meant, said = (sentences(1, words="a b c", longest=5, seed=3 * seed + i)[0] for i in range(2))
    keywords = ["a", "a b", "c"]
    metric = KeywordF1(keywords)
    hits, extra, missed = metric.count(meant, said)
    listed = [keyword.split() for keyword in keywords]
    wanted, spoken = positions(meant.split(), listed), positions(said.split(), listed)
    assert (hits + missed, hits + extra) == (len(wanted), len(spoken))
    every = alignments(meant.split(), said.split())
    fewest = min(errors for errors, _ in every)
    possible = set()
    for errors, equal in every:
        if errors == fewest:
            landed = 0
            for start, stop in wanted:
                places = [equal.get(i) for i in range(start, stop)]
                run = None not in places and places == list(range(places[0], places[0] + len(places)))  # type: ignore[operator,arg-type]
                landed += run and (places[0], places[-1] + 1) in spoken  # type: ignore[operator]
            possible.add(landed)
    assert hits in possible


@pytest.mark.parametrize("seed", range(20))
def test_counted_hits_are_the_smaller_numbers(seed: int) -> None:
    meant, said = (sentences(1, words="a b c", longest=8, seed=3 * seed + i)[0].split() for i in range(2))
    hits, extra, missed = KeywordF1(["a", "c"], matching="counts").count(" ".join(meant), " ".join(said))
    assert hits == sum(min(meant.count(k), said.count(k)) for k in "ac")
    assert (hits + extra, hits + missed) == tuple(sum(words.count(k) for k in "ac") for words in (said, meant))


def test_keyword_scores_by_hand() -> None:
    metric = keyword_f1(KeywordF1Config(keywords=("Amazon Queen", "queen", "Anna")), Ports())
    metric.update(
        ["play amazon queen", "call hannah", "the queen", "anna anna"],
        ["play the Amazon Queen!", "call Anna", "the amazon queen", "anna"],
    )
    # the longest phrase wins: 'queen' within 'amazon queen' is no occurrence of its own
    assert metric.per_item().tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 0]]
    values = {name: value.value for name, value in metric.reduce(metric.per_item()).items()}
    assert values == pytest.approx({"keyword-f1": 50.0, "keyword-precision": 50.0, "keyword-recall": 50.0})
    assert all(math.isnan(value.value) for value in metric.reduce(np.zeros((1, 3))).values())


def test_a_keyword_elsewhere_is_a_hit_by_count_only() -> None:
    meant, said = "anna went home with me today", "home with me today anna"
    assert KeywordF1(["anna"]).count(meant, said) == (0, 1, 1)
    assert KeywordF1(["anna"], matching="counts").count(meant, said) == (1, 0, 0)


def test_keywords_come_from_a_file_and_travel_in_the_bundle(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "names.txt"
    file.write_text("# names\nAnna\n\nAmazon Queen\n")
    config = KeywordF1Config(keywords=("stop",), keywords_file=file)
    metric = keyword_f1(config, Ports())
    file.unlink()
    with pytest.raises(DataError, match=r"names.txt cannot be read"):
        keyword_f1(config, Ports())
    for name, data in metric.save_files().items():
        (tmp_path / name).write_bytes(data)
    again = keyword_f1(config, Ports(folder=tmp_path))
    for part in (metric, again):
        assert part.count("stop anna amazon queen", "stop anna amazon queen") == (3, 0, 0)
    with pytest.raises(DataError, match="keyword '!' is empty after normalization"):
        KeywordF1(["!"])
    with pytest.raises(DataError, match="no keywords"):
        KeywordF1([])


# --- mel-cepstra


@pytest.mark.parametrize(("rate", "alpha"), [(8000, 0.31), (10000, 0.35), (12000, 0.37), (16000, 0.42), (44100, 0.53)])
def test_warping_is_near_the_customary_one(rate: int, alpha: float) -> None:
    assert mel_alpha(rate) == pytest.approx(alpha, abs=0.015)  # the table in SPTK's reference manual, mcep


def test_a_mel_cepstrum_is_the_integral_over_warped_frequency() -> None:
    alpha, bins, order = 0.42, 513, 6

    def log_magnitude(omega: np.ndarray) -> np.ndarray:
        return 0.3 + 0.8 * np.cos(omega) - 0.4 * np.cos(3 * omega)

    found = mel_cepstrum(np.exp(2 * log_magnitude(np.linspace(0, np.pi, bins)))[None], order=order, alpha=alpha)[0]
    # independently: a fine uniform grid of warped frequencies, mapped back by the inverse all-pass (-alpha)
    warped = (np.arange(20000) + 0.5) * np.pi / 20000
    values = log_magnitude(warp(warped, -alpha))
    for m in range(order + 1):
        assert found[m] == pytest.approx((2 if m else 1) * np.mean(values * np.cos(m * warped)), abs=1e-4)


def test_power_spectra_survive_a_long_cepstrum() -> None:
    omega = np.linspace(0, np.pi, 257)
    power = np.exp(1 + 2 * np.cos(omega) + 0.5 * np.cos(7 * omega))[None]
    coded = mel_cepstrum(power, order=60, alpha=0.31)
    np.testing.assert_allclose(power_spectrum(coded, bins=257, alpha=0.31), power, rtol=1e-4)


def test_distortion_is_the_rms_log_spectral_distance_on_the_warped_axis() -> None:
    source = np.random.default_rng(0)
    a, b = 0.3 * source.standard_normal((2, 1, 9))
    a[:, 0] = b[:, 0] = 0.7  # the same loudness
    warped = (np.arange(4096) + 0.5) * np.pi / 4096
    basis = np.cos(warped[:, None] * np.arange(9))
    decibels = 20 / np.log(10) * (basis @ (a[0] - b[0]))
    expected = np.sqrt(np.mean(decibels**2))
    assert frame_distances(a[:, 1:], b[:, 1:])[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 3), (4, 3), (5, 4)])
def test_the_warping_path_is_the_cheapest_of_all(shape: tuple[int, int]) -> None:
    cost = np.random.default_rng(sum(shape)).random(shape)

    def paths(i: int, j: int) -> list[list[tuple[int, int]]]:
        if (i, j) == (0, 0):
            return [[(0, 0)]]
        steps = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        return [[*path, (i, j)] for a, b in steps if a >= 0 and b >= 0 for path in paths(a, b)]

    best = min(paths(shape[0] - 1, shape[1] - 1), key=lambda path: sum(cost[cell] for cell in path))
    total, cells = warping_path(cost)
    assert total == pytest.approx(sum(cost[cell] for cell in best))
    assert cells == len(best)


def test_warping_undoes_a_change_of_tempo() -> None:
    reference = np.cumsum(np.random.default_rng(1).standard_normal((30, 25)), axis=0)
    slow = np.repeat(reference, 2, axis=0)
    metric = MelCepstralDistortion(order=24)
    metric.update([slow], [reference])
    assert metric.reduce(metric.per_item())["mel-cepstral-distortion"].value == pytest.approx(0.0, abs=1e-9)
    frames = MelCepstralDistortion(order=24, alignment="none")
    with pytest.raises(ShapeError, match="60 frames cannot be compared frame by frame with a reference of 30"):
        frames.update([slow], [reference])


def test_loudness_does_not_count_but_the_spectrum_does() -> None:
    source = np.random.default_rng(0)
    noise = 0.1 * source.standard_normal(8000)
    metric = mel_cepstral_distortion(MelCepstralDistortionConfig(tracker="dio", alignment="none"), Ports())
    tilted = noise - 0.9 * np.concatenate([[0], noise[:-1]])
    metric.update([0.5 * noise, noise, tilted], [noise, noise, noise])
    quiet, same, tilt = (metric.reduce(metric.per_item()[[i]])["mel-cepstral-distortion"].value for i in range(3))
    assert same == 0
    assert quiet < 0.1
    assert tilt > 3
    # the tilt's own distance, frequency by frequency: |1 - 0.9 e^-jw| in dB, without its warped mean
    omega = np.linspace(0, np.pi, 513)
    gain = mel_cepstrum((1 + 0.81 - 1.8 * np.cos(omega))[None], order=24, alpha=metric.alpha)
    assert tilt == pytest.approx(float(frame_distances(gain[:, 1:], 0 * gain[:, 1:])[0]), rel=0.1)


def test_every_form_of_sound_measures_the_same() -> None:
    sound = (0.1 * np.random.default_rng(0).standard_normal(4000)).astype(np.float32)
    metric = MelCepstralDistortion(tracker="dio")
    padded = torch.cat([torch.from_numpy(sound), torch.ones(500)])[None]
    forms = [sound, torch.from_numpy(sound), Recording(sound, 16000), Waveform(padded, torch.tensor([4000]), 16000)]
    cepstra = torch.from_numpy(np.pad(metric.cepstra(sound), ((0, 0), (1, 0)))).float()[None]
    forms.append(Features(cepstra, torch.tensor([cepstra.shape[1]]), 0.005))
    for form in forms:
        np.testing.assert_allclose(metric.cepstra(form), metric.cepstra(sound), atol=1e-6)
    metric.update([sound[:0], sound], [sound, sound[:0]])
    assert metric.per_item().tolist() == [[0, 0], [0, 0]]
    assert math.isnan(metric.reduce(metric.per_item())["mel-cepstral-distortion"].value)


def test_wrong_sounds_are_refused() -> None:
    metric = MelCepstralDistortion()
    for item, error, match in (
        (Recording(np.zeros(9, np.float32), 8000), ShapeError, "measures at 16000 Hz, the item has 8000 Hz"),
        (Waveform(torch.zeros(2, 9), torch.tensor([9, 9]), 16000), ShapeError, "one utterance, got a Waveform of 2"),
        (np.zeros((5, 7)), ShapeError, r"expected samples \(n,\) or mel-cepstra \(t, 25\)"),
        (np.full(9, np.nan), DataError, "NaN or infinity"),
    ):
        with pytest.raises(error, match=match):
            metric.update([item], [item])
