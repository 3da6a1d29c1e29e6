"""The ledger: its chain, its terms, and what it detects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pate_ledgers import VOTE, Budget, opened

from slt_pate.events import (
    Charge,
    GaussianMax,
    LaplaceMax,
    NoisyVector,
    NoisyVectorLaplace,
    Publication,
    SampledGaussian,
    ThresholdTest,
)
from slt_pate.ledger import Stamp, merge_charges, read_ledger
from slt_pate.ledger.charges import charge_from_json, charge_to_json
from slt_pate.mechanisms import GNMax
from sltcore.errors import PrivacyError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def five(path: Path) -> Path:
    """A closed ledger with five entries."""
    with opened(path) as ledger:
        for place in range(5):
            ledger.append((Charge(GaussianMax(20.0), place + 1),), f"token {place}")
    return path


def test_a_ledger_goes_on_where_it_was_left(path: Path) -> None:
    with opened(path) as ledger:
        first = ledger.append(VOTE, "token 0")
        ledger.append((Charge(GaussianMax(20.0), 3), Charge(ThresholdTest(30.0), 4)), "tokens 1 to 4")
        head = ledger.head
    guard = Budget()
    with opened(path, guard) as ledger:
        assert ledger.head == head
        assert guard.spent == 8
        assert ledger.charges == (Charge(GaussianMax(20.0), 4), Charge(ThresholdTest(30.0), 4))
        assert [entry.what for entry in ledger.entries] == ["token 0", "tokens 1 to 4"]
        assert ledger.contains(first.head)
        assert ledger.contains(head)
        assert not ledger.contains("0" * 64)
    history = read_ledger(path)
    assert history.charges == ledger.charges
    assert history.stamp == ledger.stamp
    assert history.terms == {"epsilon": 4.0, "delta": 1e-5, "unit": "speaker"}
    assert history.entries == ledger.entries


def test_each_line_is_hashed_with_the_one_before_it(five: Path) -> None:
    # The hash is recomputed here from the documented form: canonical JSON without the field 'hash'.
    import hashlib

    previous = "0" * 64
    for seq, line in enumerate(five.read_text().splitlines()):
        data = json.loads(line)
        digest = data.pop("hash")
        assert (data["prev"], data["seq"]) == (previous, seq)
        assert digest == hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        previous = digest


@pytest.mark.slow
def test_no_bit_of_the_file_can_change_unseen(five: Path) -> None:
    content = five.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    for place in range(len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        five.write_bytes(changed)
        if place >= last and not changed[place]:
            continue  # a zero byte in the last line is what a crash may leave
        with pytest.raises(PrivacyError, match=r"is damaged: line \d|has format \d|line \d: event"):
            read_ledger(five)


@pytest.mark.parametrize("edit", ["remove", "swap", "repeat", "rewrite"])
def test_lines_cannot_be_moved(five: Path, edit: str) -> None:
    lines = five.read_bytes().splitlines(keepends=True)
    match edit:
        case "remove":
            del lines[2]
        case "swap":
            lines[2], lines[3] = lines[3], lines[2]
        case "repeat":
            lines.insert(3, lines[2])
        case "rewrite":
            from slt_pate.ledger.chain import make_line

            data = json.loads(lines[2])
            body = {key: data[key] for key in ("seq", "kind", "what", "time", "charges")}
            body["charges"][0]["count"] = 1
            lines[2] = make_line(data["prev"], body)[0]
    five.write_bytes(b"".join(lines))
    line = 4 if edit in ("repeat", "rewrite") else 3
    with pytest.raises(PrivacyError, match=rf"ledger .* is damaged: line {line} .*Next: restore the newest copy"):
        opened(five)
    with pytest.raises(PrivacyError, match="is damaged: line"):
        read_ledger(five)


@pytest.mark.slow
def test_a_line_cut_at_any_byte_is_dropped_and_the_drop_is_written_down(five: Path) -> None:
    content = five.read_bytes()
    begin = content.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(begin, len(content)):
        five.write_bytes(content[:end])
        whole = end >= len(content) - 1  # only the newline is missing: the line counts
        assert len(read_ledger(five).entries) == (5 if whole else 4)
        guard = Budget()
        with opened(five, guard) as ledger:
            assert guard.spent == (15 if whole else 10)
            kinds = [entry.kind for entry in ledger.entries]
            assert kinds == ["release"] * (5 if whole else 4) + ["recovery"] * (not whole and end > begin)
            ledger.append(VOTE, "token 5")
        if not whole and end > begin:
            assert f"dropped {end - begin} bytes of a line that was cut" in read_ledger(five).entries[4].what
        assert read_ledger(five).charges == (Charge(GaussianMax(20.0), guard.spent),)


def test_a_last_line_with_a_block_that_was_not_written_is_dropped(five: Path) -> None:
    content = five.read_bytes()
    begin = content.rstrip(b"\n").rfind(b"\n") + 1
    five.write_bytes(content[:begin] + b"\0" * 40 + content[begin + 40 :])
    with opened(five) as ledger:
        assert [entry.kind for entry in ledger.entries] == ["release"] * 4 + ["recovery"]


@pytest.mark.parametrize("keep", [b"", b'{"format":1,'])
def test_a_file_without_its_first_line_is_refused(path: Path, keep: bytes) -> None:
    path.write_bytes(keep)
    with pytest.raises(PrivacyError, match="has no complete first line, although .* it was cut later"):
        opened(path)


def test_a_rolled_back_ledger_is_detected_beside_an_artefact(five: Path) -> None:
    old = five.read_bytes()
    with opened(five) as ledger:
        stamp = ledger.append(VOTE, "token 5")
    student = {"student.json": stamp}
    with opened(five, stamps=student) as ledger:
        ledger.verify(stamp, what="student.json")
    five.write_bytes(old)
    with pytest.raises(
        PrivacyError, match=r"was rolled back: it has 6 lines, student.json was released at line 7; no more"
    ):
        opened(five, stamps=student)
    with opened(five) as ledger:  # written on after the roll-back: as long again, and another history
        ledger.append(VOTE, "another token")
        with pytest.raises(PrivacyError, match=r"has another history than student.json: line 7 is not"):
            ledger.verify(stamp, what="student.json")
    with pytest.raises(PrivacyError, match="has another history than student.json"):
        read_ledger(five).verify(stamp, what="student.json")


def test_an_artefact_of_another_ledger_is_told_from_a_roll_back(five: Path, tmp_path: Path) -> None:
    with (
        opened(tmp_path / "other") as other,
        pytest.raises(PrivacyError, match=r"student belongs to ledger .*, not to"),
    ):
        read_ledger(five).verify(other.stamp, what="student")


def test_a_stamp_survives_json_and_nothing_else_is_one() -> None:
    stamp = Stamp("a" * 64, "b" * 64, 3)
    assert Stamp.from_json(json.loads(json.dumps(stamp.to_json()))) == stamp
    for bad in (None, {}, {"ledger": "a", "head": "b", "lines": True}, {"ledger": 1, "head": "b", "lines": 1}):
        with pytest.raises(PrivacyError, match="is no stamp of a ledger; expected"):
            Stamp.from_json(bad)


@pytest.mark.parametrize(
    ("others", "text"),
    [
        ({"epsilon": 8.0}, "epsilon 4.0 there, 8.0 asked for"),
        ({"delta": 1e-4}, "delta 1e-05 there, 0.0001 asked for"),
        ({"unit": "utterance"}, "unit 'speaker' there, 'utterance' asked for"),
        ({"terms": {"teachers": 50}}, "teachers None there, 50 asked for"),
    ],
)
def test_terms_are_fixed_by_the_first_line(five: Path, others: dict[str, Any], text: str) -> None:
    with pytest.raises(PrivacyError, match=f"has other terms: {text}; they are fixed before the first release"):
        opened(five, **others)


@pytest.mark.parametrize(
    ("others", "text"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0, expected a finite number over 0"),
        ({"epsilon": float("inf")}, "epsilon is inf, expected a finite number over 0"),
        ({"epsilon": "4"}, "epsilon is '4', expected"),
        ({"delta": 1.0}, "delta is 1.0, expected a finite number between 0 and 1"),
        ({"delta": float("nan")}, "delta is nan, expected"),
        ({"unit": " "}, "unit is ' ', expected what one person contributes, such as 'speaker'"),
    ],
)
def test_a_budget_that_is_none_is_refused(path: Path, others: dict[str, Any], text: str) -> None:
    with pytest.raises(PrivacyError, match=text):
        opened(path, **others)
    assert not path.exists()


def test_a_ledger_that_is_gone_is_not_begun_anew_beside_what_came_from_it(path: Path) -> None:
    with opened(path) as ledger:
        ledger.release(GNMax(1.0), [3, 1], "token")
        stamp = ledger.stamp
    path.unlink()
    with pytest.raises(
        PrivacyError, match=r"does not exist, but student, .*votes-private came from one; a new one would forget"
    ):
        opened(path, stamps={"student": stamp})
    with pytest.raises(PrivacyError, match=r"does not exist, but .*votes-private came from one"):
        opened(path)
    Path(f"{path}.votes-private").unlink()
    with pytest.raises(PrivacyError, match=r"does not exist, but student came from one"):
        opened(path, stamps={"student": stamp})
    assert not path.exists()


def test_terms_that_are_no_json_are_refused(path: Path) -> None:
    with pytest.raises(PrivacyError, match="the terms of ledger .* cannot be written as JSON"):
        opened(path, terms={"orders": object()})
    assert not path.exists()


def test_a_missing_ledger_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"ledger .*none cannot be read: No such file"):
        read_ledger(tmp_path / "none")
    with pytest.raises(
        PrivacyError, match=r"ledger .*file cannot be opened: No such file or directory; nothing was released"
    ):
        opened(tmp_path / "no folder" / "file")


def test_a_ledger_of_a_newer_format_or_event_is_refused(path: Path) -> None:
    from slt_pate.ledger.chain import START, make_line

    line, head = make_line(START, {"format": 2, "seq": 0, "kind": "terms", "id": "x", "time": "", "terms": {}})
    path.write_bytes(line)
    with pytest.raises(PrivacyError, match="has format 2, expected 1. Next: pip install -U sltcore-pate"):
        read_ledger(path)
    line, head = make_line(START, {"format": 1, "seq": 0, "kind": "terms", "id": "x", "time": "", "terms": {}})
    body = {"seq": 1, "kind": "release", "what": "x", "time": "", "charges": [{"event": "Newer", "count": 1}]}
    path.write_bytes(line + make_line(head, body)[0])
    with pytest.raises(PrivacyError, match="line 2: event 'Newer' is none of: GaussianMax, .*pip install -U"):
        read_ledger(path)
    body["charges"] = [{"event": "GaussianMax", "count": 1, "scale": 2.0}]
    path.write_bytes(line + make_line(head, body)[0])
    with pytest.raises(PrivacyError, match="line 2: event GaussianMax has the numbers scale, expected sigma"):
        read_ledger(path)


positive = st.floats(1e-300, 1e300)
events = st.one_of(
    st.builds(GaussianMax, positive),
    st.builds(LaplaceMax, positive),
    st.builds(ThresholdTest, positive),
    st.builds(NoisyVector, positive, positive),
    st.builds(NoisyVectorLaplace, positive, positive),
    st.builds(SampledGaussian, positive, st.floats(0, 1)),
    st.builds(Publication, positive, positive, st.floats(0, 9)),
)
charges = st.builds(Charge, events, st.integers(1, 10**9))


@given(charges)
def test_a_charge_survives_json_to_the_last_bit(charge: Charge) -> None:
    assert charge_from_json(json.loads(json.dumps(charge_to_json(charge)))) == charge


@given(st.lists(charges))
def test_merging_keeps_every_count(several: list[Charge]) -> None:
    merged = merge_charges(several + several)
    assert len({charge.event for charge in merged}) == len(merged)
    for charge in merged:
        assert charge.count == 2 * sum(one.count for one in several if one.event == charge.event)
