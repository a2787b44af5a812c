"""Measurements of what the guard promises in numbers; they use the beds of the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
