"""From TOML to a policy, and what is said of a file that is wrong."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_guard.core.codec import from_plain
from ollama_guard.core.model import Mode, Preference
from ollama_guard.core.policy import (
    GIB,
    MIB,
    NO_CEILING_BYTES,
    Authority,
    ModelRule,
    Policy,
    Protect,
    Threshold,
)
from ollama_guard.errors import ConfigError
from ollama_guard.settings import compiler
from ollama_guard.settings.compiler import canonical_json, compile_file, compile_text
from ollama_guard.settings.deadline import within
from ollama_guard.settings.ignored import hints

BAD = [
    ("[polcy]\n", ["line 1", "unknown table polcy", "did you mean policy?"]),
    ("[policy]\n\ntransitoin = '60s'\n", ["line 3", "policy.transitoin", "did you mean policy.transition?"]),
    ("[ollama]\nTransition = '60s'\n", ["line 2", "ollama.Transition", "did you mean policy.transition?"]),
    ("soft_max = 2\n", ["line 1", "unknown key soft_max", "did you mean cap.soft_max?"]),
    ("[thresholds.gpu]\n", ["unknown table thresholds.gpu", "allowed here: container, host"]),
    ("[ollama]\nfrob = 1\n", ["unknown key ollama.frob", "allowed here: authority, cgroup"]),
    ('[models."a.b"]\nprefer = "omit"\n', ["line 2", 'models."a.b".prefer', "preference?"]),
    ("ollama = 3\n", ["line 1", "ollama = 3", "is not a table"]),
    ("[[ollama]]\n", ["line 1", "ollama", "is not a table"]),
    ("[ollama]\nurl = 3\n", ["ollama.url = 3", "is a number, not text", "http://127.0.0.1:11434"]),
    ("[ollama]\npoll = 15\n", ["ollama.poll = 15", "bare number", "allowed: 1s to 10min"]),
    ("[ollama]\npoll = '15'\n", ['ollama.poll = "15"', "not a duration", "allowed: 1s to 10min"]),
    ("[ollama]\npoll = '0.5s'\n", ["out of range", "allowed: 1s to 10min"]),
    ("[ollama]\npoll = true\n", ["ollama.poll = true", "is true or false, not text"]),
    ("[ollama]\npoll = 1979-05-27\n", ["ollama.poll = 1979-05-27", "is a date or time, not text"]),
    ("[ollama]\npoll = '60s'\n", ["ollama.unresponsive_after = (its default)", "not longer than poll"]),
    (
        "[policy]\nkills_per_hour = 1.5\n",
        ["policy.kills_per_hour = 1.5", "not a whole number", "from 1 to 3600"],
    ),
    ("[policy]\nkills_per_hour = true\n", ["not a whole number"]),
    ("[policy]\nkills_per_hour = 0\n", ["out of range", "from 1 to 3600"]),
    ('[governor]\nmax_keep_alive = "2s"\n', ["line 2", "governor.max_keep_alive", '"2s"', "5s to 24h"]),
    ("[governor]\nmax_keep_alive = -1\n", ["line 2", "governor.max_keep_alive", "30s"]),
    ("[governor]\nmax_keepalive = 1\n", ["unknown key", "did you mean governor.max_keep_alive?"]),
    (f"[cap]\nsoft_max = 0x{'f' * 6000}\n", ["(a very large number)", "out of range"]),
    ("[record]\nenabled = 'no'\n", ['record.enabled = "no"', "is text", "true or false, without quotes"]),
    ("[record]\nmax_file = '1KiB'\n", ["out of range", "allowed: 64KiB to 1GiB"]),
    ("[record]\nmax_total = '7MiB'\n", ['record.max_total = "7MiB"', "twice max_file or more"]),
    ("[record]\nfolder = 'traces'\n", ["is no folder's path", "an absolute path"]),
    ("[record]\nfolder = '/a/../b'\n", ["is no folder's path"]),
    ("[policy]\nmode = 'paused'\n", ['policy.mode = "paused"', 'allowed: "enforce", "observe"']),
    ("[ollama]\nauthority = 'root'\n", ['"runners", "server"']),
    ("[models.x]\npreference = 'never'\n", ['models.x.preference = "never"', '"none", "avoid", "omit"']),
    ('[models."a\\u0007b"]\npreference = "omit"\n', ["is no model name"]),
    ("[thresholds.host]\nsoft = '-1%'\n", ["thresholds.host.soft", "impossible percentage (0% to 100%)"]),
    ("[thresholds.host]\nsoft = '101%'\n", ["line 2", '"101%"', "impossible percentage"]),
    ("[thresholds.host]\nsoft = 'abc%'\n", ['"abc%"', "not a percentage"]),
    ("[thresholds.host]\nsoft = '20'\n", ["has no unit", '"20%"']),
    ("[thresholds.host]\nsoft = 0.2\n", ["bare number", '"20%"']),
    ("[thresholds.host]\nsoft = '60%'\n", ["impossible threshold for soft", "at most 50%"]),
    ("[thresholds.host]\nhard = '0B'\n", ["impossible threshold for hard", "above 0%"]),
    ("[thresholds.host]\nsoft = '1.5 GB of it'\n", ["not a size", '"1.5GiB"']),
    ("[thresholds.host]\ncritical = { at_least = '1GiB' }\n", ["thresholds.host.critical has no below"]),
    (
        "[thresholds.host]\nhard = { below = '9%', at_least = '4GiB', at_most = '1GiB' }\n",
        ["line 2", 'thresholds.host.hard.at_least = "4GiB"', "is above at_most"],
    ),
    (
        "[thresholds.host]\nsoft = { below = '4GiB', at_least = '1GiB' }\n",
        ["thresholds.host.soft.at_least", "no meaning beside a fixed size"],
    ),
    (
        "[thresholds.container]\n# smaller\nsoft = '5%'\n",
        ["thresholds.container.hard = (its default)", "out of order", "soft above hard above critical"],
    ),
    ("[thresholds.host]\nhard = '15%'\n", ["line 2", 'thresholds.host.hard = "15%"', "hard", "out of order"]),
    (
        "[thresholds.host]\ncritical = { below = '5%', at_least = '400MiB', at_most = '1GiB' }\n",
        ["thresholds.host.critical", "out of order", "hard to 300 MiB"],
    ),
    (
        "[thresholds.host]\nsoft = '1.5GiB'\n",
        ["thresholds.host.hard = (its default)", "out of order", "soft to 1.5 GiB"],
    ),
    ("[policy]\nmin_reclaim = '80%'\n", ["policy.min_reclaim", "more than relief can be asked", "0% to 50%"]),
    ("[policy]\ncondemned = '24h'\ncondemned_at_most = '1h'\n", ["line 3", "is shorter than condemned"]),
    ("[ollama]\nuser = 'no-such-user-here'\n", ['"no-such-user-here"', "is no user of this machine"]),
    ("[ollama]\nuser = -1\n", ["is no user number"]),
    ("[ollama]\ncgroup = 'system.slice'\n", ["is no cgroup", "/system.slice/ollama.service"]),
    ("[ollama]\ncgroup = '/sys/fs/cgroup/a'\n", ["leave out /sys/fs/cgroup"]),
    ("[ollama]\ncgroup = '/a/../b'\n", ["is no cgroup"]),
]

SECRETS = [
    "ftp://x/s3cret", "x/s3cret", "http:///s3cret", "http://x:0/s3cret", "http://[::1/s3cret",
    "http://x/s3cret key", "https://x/s3cret\\u0000", "https://x/s3cretü",
]  # fmt: skip

BAD_URLS = [
    "", "localhost:11434", "127.0.0.1:11434", "ftp://x:1", "http://", "http://:11434", "http://x:0", "http://x:65536",
    "http://x:port", "http://user:secret@x", "http://x/api", "http://x?a=b", "http://x#f", "http://a b", "http://ü",
    "http://[::1", "http://x\\u0000y", "unix:///run/ollama.sock",
]  # fmt: skip


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compile_text(text, "my.toml")
    return caught.value.problems


@pytest.mark.parametrize("webhook", SECRETS)
def test_a_wrong_webhook_is_named_and_never_repeated(webhook: str) -> None:
    """What is wrong with a file ends up in logs, and a webhook's URL is often its key."""
    (problem,) = problems(f'[notify]\nwebhook = "{webhook}"\n')
    assert problem.startswith(
        "my.toml, line 2: notify.webhook is no such URL; allowed: an http:// or https://"
    )
    assert "s3cret" not in problem


def test_a_webhook_in_the_place_of_its_table_is_not_repeated_either() -> None:
    (problem,) = problems('notify = "https://x/s3cret"\n')
    assert "notify" in problem
    assert "s3cret" not in problem


def test_a_webhook_is_taken_as_it_is_written() -> None:
    webhook = "https://me:key@chat.example.org:8443/hooks/a?b=c"
    policy = compile_text(f'[notify]\nwebhook = "{webhook}"\ntimeout = "3s"\n', "my.toml")
    assert (policy.notify.webhook, policy.notify.timeout_seconds) == (webhook, 3.0)


def test_an_empty_file_is_the_built_in_policy() -> None:
    assert compile_text("", "my.toml") == Policy()


def test_every_key_reaches_the_policy() -> None:
    policy = compile_text(
        """
        [ollama]
        url = "https://ollama.example:443/"
        authority = "server"
        user = 4711
        cgroup = "/system.slice/ollama.service/"
        poll = "5s"
        unresponsive_after = "1min"
        request_timeout = "2.5s"
        [thresholds.host]
        soft = { below = "30%", at_least = "1GiB" }
        hard = "10%"
        critical = { below = "5%", at_most = "100MiB" }
        grace = "0s"
        [thresholds.container]
        soft = "1GiB"
        hard = "512MiB"
        critical = "64MiB"
        [policy]
        mode = "observe"
        transition = "2min"
        min_reclaim = "256MiB"
        post_action_delay = "0s"
        unload_deadline = "20s"
        drain_deadline = "1h"
        condemned = "1min"
        condemned_at_most = "2min"
        kills_per_hour = 3
        [cap]
        soft_max = 2
        [governor]
        max_keep_alive = "1min 30s"
        [models."a b/ü:1"]
        preference = "omit"
        protect = "always"
        """,
        "my.toml",
    )
    assert (policy.ollama.url, policy.ollama.authority) == ("https://ollama.example:443", Authority.SERVER)
    assert (policy.ollama.user_id, policy.ollama.cgroup) == (4711, "/system.slice/ollama.service")
    assert (policy.ollama.poll_seconds, policy.ollama.unresponsive_after_seconds) == (5, 60)
    assert (policy.ollama.request_timeout_seconds, policy.ollama.mode) == (2.5, Mode.OBSERVE)
    assert policy.host.soft == Threshold(0.30, GIB, NO_CEILING_BYTES)
    assert policy.host.hard == Threshold(0.10, 0, NO_CEILING_BYTES)
    assert policy.host.critical == Threshold(0.05, 0, 100 * MIB)
    assert policy.host.grace_seconds == 0
    assert policy.container.soft == Threshold(0, GIB, GIB)
    assert (policy.min_reclaim_ratio, policy.min_reclaim_floor_bytes) == (0, 256 * MIB)
    assert (policy.transition_seconds, policy.post_action_delay_seconds) == (120, 0)
    assert (policy.unload_deadline_seconds, policy.drain_deadline_seconds) == (20, 3600)
    assert (policy.condemned_seconds, policy.condemned_max_seconds, policy.kills_per_hour) == (60, 120, 3)
    assert policy.cap.soft_max == 2
    assert (policy.governor.enabled, policy.governor.max_keep_alive_seconds) == (True, 90)
    assert policy.models == {"a b/ü:1": ModelRule(Preference.OMIT, Protect.ALWAYS)}


@pytest.mark.parametrize("value", ['"4GiB"', "2048000000", "[1, 2]"])
def test_max_vram_is_accepted_ignored_and_said(value: str) -> None:
    """Ollama has not read OLLAMA_MAX_VRAM since 0.2.8; who carries it over from elsewhere is told so."""
    text = f"[playbook.freeze]\nquiet = '60s'\nmax_vram = {value}\n"
    assert compile_text(text, "my.toml") == compile_text("[playbook.freeze]\nquiet = '60s'\n", "my.toml")
    (hint,) = hints(text, "my.toml")
    assert hint.startswith("my.toml, line 3: playbook.freeze.max_vram is ignored: ")
    assert "OLLAMA_MAX_VRAM" in hint
    assert hints("[playbook.freeze]\nquiet = '60s'\n", "my.toml") == []
    assert hints("playbook = 3\n", "my.toml") == []
    with pytest.raises(ConfigError, match=r"playbook\.freeze\.max_vrm"):
        compile_text("[playbook.freeze]\nmax_vrm = 1\n", "my.toml")


def test_a_users_name_becomes_its_number() -> None:
    assert compile_text('[ollama]\nuser = "root"\n', "x").ollama.user_id == 0


@pytest.mark.parametrize(("text", "fragments"), BAD)
def test_a_bad_value_is_named_with_its_line_and_what_is_allowed(text: str, fragments: list[str]) -> None:
    (problem,) = problems(text)
    assert problem.startswith("my.toml")
    assert "\n" not in problem
    for fragment in fragments:
        assert fragment in problem


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_url_is_refused_with_an_example(url: str) -> None:
    (problem,) = problems(f'[ollama]\nurl = "{url}"\n')
    assert "my.toml, line 2: ollama.url = " in problem
    assert 'like "http://127.0.0.1:11434"' in problem


@pytest.mark.parametrize("url", ["http://localhost:11434", "http://[::1]:11434/", "HTTPS://10.0.0.7"])
def test_a_good_url_is_taken(url: str) -> None:
    assert compile_text(f'[ollama]\nurl = "{url}"\n', "x").ollama.url == url.rstrip("/")


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    found = problems('[ollama]\nurl = "x"\npoll = 3\n[nope]\n[cap]\nsoft_max = 0\n')
    assert [p.split(":")[0] for p in found] == [f"my.toml, line {n}" for n in (2, 3, 4, 6)]


def test_very_many_problems_are_counted_rather_than_told() -> None:
    found = problems("[ollama]\n" + "".join(f"key{n} = 1\n" for n in range(100)))
    assert len(found) == 31
    assert found[-1] == "my.toml: and 70 more problems"


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("[ollama]\nurl = \n", "my.toml, line 2, column 7: broken TOML"),
        ("[ollama\n", "line 1, column 8"),
        ("a = 1\na = 2\n", "line 2, column 6"),
        ("a = 'x\x00y'\n", "line 1, column 7"),
        ("a = '''x", "my.toml, by line 1: broken TOML"),
        (f"a = {'[' * 5000}", "nested too deeply"),
        (f"a = {'9' * 5000}\n", "broken TOML"),
    ],
)
def test_broken_toml_is_named_with_line_and_column(text: str, fragment: str) -> None:
    (problem,) = problems(text)
    assert fragment in problem


def test_a_long_or_hostile_value_stays_one_short_line() -> None:
    (problem,) = problems(f'[policy]\nmode = "{"x" * 5000}\\n\\u001b[31m\\u2028"\n')
    assert len(problem) < 200
    assert problem.isprintable()


def test_a_missing_default_file_means_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "DEFAULT_PATH", tmp_path / "none.toml")
    assert compile_file(None) == Policy()


def file_problem(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        compile_file(path)
    (problem,) = caught.value.problems
    return problem


def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    assert "there is no such file" in file_problem(tmp_path / "none.toml")


def test_what_is_no_readable_text_file_is_refused(tmp_path: Path) -> None:
    assert "it is a directory" in file_problem(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in file_problem(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "can't be read" in file_problem(tmp_path / "loop")
    assert "can't be read" in file_problem(tmp_path / "nul\0byte")
    assert "can't be read" in file_problem(tmp_path / ("x" * 300))


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.toml"
    path.touch(mode=0o000)

    def compiled_as_nobody() -> str:
        if os.geteuid() == 0:
            os.seteuid(65534)
        return canonical_json(compile_file(path))

    with pytest.raises(
        ConfigError, match=r"can't be read .Permission denied.; allowed: a file that this user"
    ):
        within(10, compiled_as_nobody)


def test_a_file_that_is_not_utf8_is_named_with_the_byte_and_line(tmp_path: Path) -> None:
    path = tmp_path / "latin1.toml"
    path.write_bytes(b"[ollama]\n# M\xfcnchen\n")
    assert file_problem(path) == f"{path}, line 2: byte 0xfc is not UTF-8; allowed: UTF-8 text"


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbf[cap]\r\nsoft_max = 2\r\n")
    assert compile_file(path).cap.soft_max == 2


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    path.write_bytes(b"#" * (1024**2 + 1))
    assert "larger than 1 MiB" in file_problem(path)
    path.write_bytes(b"#" * 1024**2)
    assert compile_file(path) == Policy()


KEYS = st.sampled_from(
    ["ollama", "url", "thresholds", "host", "soft", "below", "at_least", "policy", "min_reclaim", "share",
     "models", "mode", "cap", "soft_max", '"a b"', "x"]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        ['"20%"', '"1.5GiB"', '"30s"', "3", "true", "[]", "{}", '{ below = "3%" }', "nan", "'''\n'''"]
    ),
    st.integers().map(str),
    st.text(max_size=10).map(repr),
)
LINES = st.one_of(
    KEYS.map(lambda key: f"[{key}]"),
    st.lists(KEYS, min_size=1, max_size=3).map(lambda keys: f"[{'.'.join(keys)}]"),
    st.tuples(KEYS, VALUES).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    st.text(max_size=20),
)


def compiled(path: Path) -> Policy | list[str]:
    try:
        return compile_file(path)
    except ConfigError as error:
        return error.problems


@given(
    st.one_of(
        st.text().map(str.encode), st.lists(LINES).map(lambda lines: "\n".join(lines).encode()), st.binary()
    )
)
def test_any_file_at_all_gives_a_policy_or_problems_of_one_line(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(raw)
    result = compiled(path)
    assert isinstance(result, Policy) or (result and all(problem.isprintable() for problem in result))


def test_the_canonical_json_is_one_line_and_reads_back_as_the_same_policy() -> None:
    policy = compile_text('[models."x"]\npreference = "avoid"\n[cap]\nsoft_max = 1\n', "x")
    text = canonical_json(policy)
    assert "\n" not in text
    assert from_plain(Policy, json.loads(text)) == policy
