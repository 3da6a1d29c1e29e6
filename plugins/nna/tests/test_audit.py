"""What an audit says, against what is known of the model; and the table of a random LSTM that the literature leads to expect."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slt_nna.audit import Audit, Ratio, Row, audit
from slt_nna.audit_report import audit_report, db_text, write_page
from slt_nna.chip import Chip, load_chip
from slt_nna.nna import Nna
from sltcore.errors import DataError, PluginError, ShapeError
from sltcore.testing.toys import models


def attached(model: nn.Module, x: Tensor, chip: str | Chip = "harsh") -> Nna:
    transform = Nna(load_chip(chip))
    transform.attach(model.eval(), iter([x]))
    return transform


def db(expected: Tensor, given: Tensor) -> float:
    return float(10 * torch.log10(expected.double().square().sum() / (expected - given).double().square().sum()))


def test_a_ratio_is_ten_log_ten_of_energies_over_all_that_was_added() -> None:
    ratio = Ratio()
    ratio.add(torch.tensor([3.0, -torch.inf]), torch.tensor([3.0, -torch.inf]))
    ratio.add(torch.tensor([1.0]), torch.tensor([0.9]))
    assert ratio.db == pytest.approx(10 * math.log10(10 / 0.01), abs=1e-5)
    exact = Ratio()
    exact.add(torch.ones(2), torch.ones(2))
    assert exact.db == math.inf


def test_shapes_that_depend_on_values_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"shape \(2,\) on the chip and \(3,\) in float"):
        Ratio().add(torch.ones(3), torch.ones(2))


@pytest.mark.parametrize("case", models(), ids=lambda case: case[0].split()[2])
def test_the_whole_chip_is_the_models_own_output_against_float(case: tuple[str, nn.Module, Tensor]) -> None:
    _, model, x = case
    with torch.no_grad():
        expected = model(x)
        transform = attached(model, x)
        given = model(x)
        found = audit(transform, model, [x])
    assert found.whole_db == pytest.approx(db(expected, given), abs=1e-3)
    assert torch.equal(model(x), given), "it computes on the chip again afterwards"


def test_a_model_of_one_operator_hurts_as_much_as_that_operator() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 5)), torch.randn(3, 9, 8)
    found = audit(attached(model, x), model, [x])
    (row,) = found.rows
    assert (row.site, row.operator) == ("0", "linear")
    assert row.output_db == pytest.approx(row.own_db) == pytest.approx(found.whole_db)
    assert found.kinds == {"linear": pytest.approx(found.whole_db)}


def test_the_operator_with_the_coarsest_table_is_found() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Sigmoid(), nn.Linear(16, 4))
    x = torch.randn(2, 50, 16)
    chip = load_chip("generous-8bit").model_dump()
    chip["tables"]["tanh"] = {"entries": 4, "range": 1.0, "interpolation": "nearest"}
    found = audit(attached(model, x, load_chip(chip)), model, [x])
    assert found.rows[0].operator == "lookup"
    assert found.rows[0].site.startswith("0|"), "the tanh after the first layer"
    assert found.rows[0].output_db < found.rows[1].output_db - 6
    assert next(iter(found.kinds)) == "lookup"
    assert [row.output_db for row in found.rows] == sorted(row.output_db for row in found.rows)


def test_kinds_alone_are_the_same_with_fewer_runs() -> None:
    _, model, x = models()[2]
    transform = attached(model, x)
    calls: list[tuple[int, int]] = []
    short = audit(transform, model, [x, x], each=False, progress=lambda done, runs: calls.append((done, runs)))
    whole = audit(transform, model, [x, x])
    assert short.rows == []
    assert short.kinds == whole.kinds
    assert calls[-1] == (len(calls), len(calls)) == (2 * (2 + len(short.kinds)),) * 2


def test_what_cannot_be_audited_is_refused() -> None:
    model, x = nn.Sequential(nn.Linear(8, 5)), torch.randn(3, 9, 8)
    transform = attached(model, x)
    with pytest.raises(PluginError, match="needs at least one input"):
        audit(transform, model, [])
    with pytest.raises(PluginError, match="gave a int without a float tensor"):
        audit(transform, model, [x], call=lambda module, value: len(module(value)))
    with pytest.raises(PluginError, match="chip 'ideal' is float: there is nothing to audit"):
        audit(attached(nn.Sequential(nn.Linear(8, 5)), x, "ideal"), model, [x])


def an_audit(**fields: Any) -> Audit:
    rows = [Row("a.b", "linear", 12.34, 20.0), Row("a.b|softmax", "softmax", math.inf, math.inf)]
    return Audit(**{"chip": load_chip("harsh"), "whole_db": 9.876, "kinds": {"linear": 12.34}, "rows": rows, **fields})


def test_the_page_has_the_table_and_a_chart_and_escapes_names(tmp_path: Path) -> None:
    found = an_audit(rows=[Row("<script>", "linear", 1.25, 2.0), Row("b", "add", math.inf, math.inf)], utterances=2)
    write_page(audit_report(found, title="a & b"), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<svg" in text
    assert "&lt;script&gt;" in text
    assert "exact" in text
    assert "9.9 dB" in text


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the page cannot be written: No such file or directory; choose another file"):
        write_page(audit_report(an_audit(), title="x"), tmp_path / "no" / "page.html")


def test_json_holds_every_operator_and_no_infinity() -> None:
    values = json.loads(json.dumps(an_audit(utterances=1).to_dict(), allow_nan=False))
    assert values["operators"][0] == {"site": "a.b", "operator": "linear", "output_db": 12.34, "own_db": 20.0}
    assert values["operators"][1]["output_db"] is None
    assert (values["whole_db"], values["chip"], values["kinds"]) == (9.88, "harsh", {"linear": 12.34})


def test_ratios_read_as_text() -> None:
    assert [db_text(value) for value in (13.37, math.inf, -math.inf)] == ["13.4 dB", "exact", "no signal"]
