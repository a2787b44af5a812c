"""What the files of a unit come to."""

from hypothesis import given
from hypothesis import strategies as st

from ollama_guard.core.unitfile import unit_of

MAIN = """\
[Unit]
Description=Ollama Service
OOMPolicy=wrong section

[Service]
ExecStart=/usr/local/bin/ollama serve
Environment="PATH=/usr/bin:/bin" OLLAMA_NUM_PARALLEL=2
# Environment=OLLAMA_HOST=commented
"""


def test_later_files_win_and_lists_grow() -> None:
    lines = ('Environment="OLLAMA_NUM_PARALLEL=4"', "Environment=OLLAMA_HOST=0.0.0.0", "OOMPolicy=continue")
    override = "\n".join(["[Service]", *lines, ""])
    unit = unit_of("ollama.service", [("/a", MAIN), ("/b", override)])
    assert unit.environment == {
        "PATH": "/usr/bin:/bin", "OLLAMA_NUM_PARALLEL": "4", "OLLAMA_HOST": "0.0.0.0"  # noqa: S104
    }  # fmt: skip
    assert (unit.oom_policy, unit.files, unit.guarded) == ("continue", ("/a", "/b"), False)


def test_an_empty_line_starts_a_list_anew() -> None:
    unit = unit_of("x", [("/a", MAIN), ("/b", "[Service]\nEnvironment=\nEnvironment=A=1\n")])
    assert unit.environment == {"A": "1"}


def test_a_line_that_ends_in_a_backslash_goes_on_in_the_next() -> None:
    assert unit_of("x", [("/a", "[Service]\nEnvironment=A=1 \\\n  B=2\n")]).environment == {
        "A": "1",
        "B": "2",
    }


def test_a_broken_file_costs_its_broken_lines_only() -> None:
    broken = '\x00garbage\n[Serv\n[Service]\nEnvironment="A=1\nEnvironment=B=2\n=\n===\nOOMPolicy=kill'
    unit = unit_of("x", [("/a", broken)])
    assert (unit.environment, unit.oom_policy) == ({"B": "2"}, "kill")


def test_environment_files_that_come_after_the_guards_are_told() -> None:
    texts = [
        ("/etc/x.service", "[Service]\nEnvironmentFile=/etc/default/x\n"),
        ("/etc/x.service.d/10-own.conf", "[Service]\nEnvironmentFile=/etc/early\n"),
        ("/etc/x.service.d/override.conf", "[Service]\nEnvironmentFile=-/etc/late\n"),
    ]
    assert unit_of("x.service", texts).overruling == ("/etc/late",)


def test_a_unit_that_reads_the_guards_file_is_known_by_it() -> None:
    line = "[Service]\nEnvironmentFile=-/var/lib/ollama-guard/env/ollama.env\n"
    assert unit_of("x", [("/a", line)]).guarded
    assert not unit_of("x", [("/a", line + "EnvironmentFile=\n")]).guarded


LINES = (
    "[Service]", "[Unit]", "[", "]", "[]", "Environment=A=1", 'Environment="A=1', "Environment=",
    "Environment='",
    "Environment=\\", "EnvironmentFile=-/a", "EnvironmentFile=", "OOMPolicy=stop", "=", "# x", ";", "\\",
    "A=" + "x" * 5000, "\x00", "\x85", "\ud800",
)  # fmt: skip


@given(
    files=st.lists(
        st.tuples(
            st.sampled_from(["/a", "/etc/x.service.d/override.conf", ""]) | st.text(max_size=20),
            st.lists(st.sampled_from(LINES) | st.text(max_size=40), max_size=20).map("\n".join),
        ),
        max_size=4,
    )
)
def test_any_texts_at_all_come_to_facts(files: list[tuple[str, str]]) -> None:
    unit = unit_of("x.service", files)
    assert unit.files == tuple(path for path, _ in files)
    for text in (unit.oom_policy, *unit.overruling, *unit.environment, *unit.environment.values()):
        assert isinstance(text, str)
        assert "\n" not in text
