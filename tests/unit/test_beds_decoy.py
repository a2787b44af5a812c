"""The decoys can show command lines of any length."""

from pathlib import Path

import pytest

from beds.decoys import Decoy
from beds.process import argv_of


@pytest.mark.parametrize("extra", [0, 1, 8, 9, 10, 11, 40, 300])
def test_a_decoy_shows_a_command_line_of_any_length(extra: int) -> None:
    with Decoy(["srv", "x" * extra]) as decoy:
        shown = argv_of(decoy.pid)
        assert shown == decoy.argv
        assert shown[:2] == ["srv", "x" * extra]
        assert Path(f"/proc/{decoy.pid}/comm").read_text() == "srv\n"
