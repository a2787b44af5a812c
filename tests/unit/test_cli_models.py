"""The table of `models`, and the names that are like one that is not installed."""

from ollama_guard.cli.models import table
from ollama_guard.cli.nearest import nearest, unknown_model

INSTALLED = ["llama3.2:1b", "llama3.2:3b", "qwen2.5:3b", "hf.co/someone/Model-GGUF:Q4", "nomic:latest"]


def test_a_name_without_its_tag_is_found_with_all_its_tags() -> None:
    assert nearest("llama3.2", INSTALLED) == ["llama3.2:1b", "llama3.2:3b"]


def test_a_slip_of_the_finger_finds_the_right_name() -> None:
    assert nearest("lama3.2:3b", INSTALLED)[0] == "llama3.2:3b"
    assert nearest("QWEN2.5:3b ", INSTALLED)[0] == "qwen2.5:3b"
    assert nearest("nomc", INSTALLED) == ["nomic:latest"]


def test_what_is_like_nothing_suggests_nothing() -> None:
    assert unknown_model("zzz", INSTALLED) == "no model named 'zzz' is installed"
    assert "Ollama has told of none" in unknown_model("zzz", [])


def test_a_hostile_name_is_one_line_and_costs_no_time() -> None:
    assert "\n" not in unknown_model("a\n\x1b[31m" + "b" * 100_000, INSTALLED * 200)


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table([("MODEL", "FILE"), ("a\nb", "1")]) == ["MODEL   FILE", "a\\x0ab  1"]
