"""Makes the plugin and the helpers beside the tests importable, also where the plugin is not installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
if find_spec("slt_sql_rerank") is None:
    sys.path.insert(0, str(HERE.parent / "src"))
