"""Trained plan models that come with the package.

`labels-spider.safetensors` and `sequence-spider.safetensors` were learned from the questions and gold queries of Spider's
train databases, 16 of them held out for calibration, and are CC BY-SA 4.0 as those are (Yu et al. 2018, arXiv:1809.08887;
schemas as of github.com/taoyds/spider). Float16 on disk. `experiments/query_plan/make_weights.py` makes them.
"""

from __future__ import annotations

from importlib.resources import files

from torch import nn

from sltcore.errors import DataError

FOLDER = "weights"


def fill(model: nn.Module, name: str) -> None:
    """Put trained weights into a model of their size. **Raises** `DataError` where the package lacks them."""
    from safetensors.torch import load

    file = files("slt_sql_rerank.query_plan").joinpath(FOLDER, f"{name}-spider.safetensors")
    if not file.is_file():
        raise DataError(
            f"the package has no {FOLDER}/{name}-spider.safetensors; install it again, or set weights: random"
        )
    model.load_state_dict({key: value.float() for key, value in load(file.read_bytes()).items()})
