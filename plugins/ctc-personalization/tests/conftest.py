"""The tests' shared modules are imported by name: `beam_cases`, `beam_references`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
