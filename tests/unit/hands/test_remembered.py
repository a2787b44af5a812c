"""What must outlive the guard does, and a broken file costs its content only."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.remembered import RememberedLimits, RememberedRuntimes


def test_the_first_limits_are_kept_and_later_ones_are_not(tmp_path: Path) -> None:
    book = RememberedLimits(tmp_path)
    book.remember("docker:a", {"Memory": 8})
    book.remember("docker:a", {"Memory": 3})
    book.remember("docker:b", {"Memory": 1})
    again = RememberedLimits(tmp_path)
    assert again.before("docker:a") == {"Memory": 8}
    again.forget("docker:a")
    assert again.before("docker:a") is None
    assert again.before("docker:b") == {"Memory": 1}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": 5, "b": {"c": "d"}}', b"\xff", b"null"])
def test_a_broken_file_is_written_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "limits.json").write_bytes(content)
    (tmp_path / "runtimes.json").write_bytes(content)
    book, names = RememberedLimits(tmp_path), RememberedRuntimes(tmp_path)
    assert book.before("a") is None
    assert names.read() == ()
    book.remember("a", {"Memory": 8})
    names.write([(RuntimeKind.DOCKER, "ollama")])
    assert book.before("a") == {"Memory": 8}
    assert names.read() == ((RuntimeKind.DOCKER, "ollama"),)


def test_what_can_t_be_kept_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(RuntimeFailed) as caught:
        RememberedLimits(tmp_path / "state").remember("a", {"Memory": 8})
    assert caught.value.kind == "denied"
