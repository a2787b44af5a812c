"""What `doctor` sees of the guard is what the guard itself would see."""

import json
import os
import pwd
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from beds.nobody import become_nobody
from ollama_guard.cli.guard_facts import guard_facts, owners_policy, unreadable_by
from ollama_guard.cli.options import Places
from ollama_guard.core.checkup_guard import GuardFacts, running
from ollama_guard.core.checkup_models import never_fits
from ollama_guard.core.machine import Installed, Machine, Server
from ollama_guard.core.policy import Policy
from ollama_guard.settings.deadline import within

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another user's eyes")


@pytest.fixture
def nobody() -> str:
    """A user who is nobody's owner."""
    try:
        return pwd.getpwuid(65534).pw_name
    except KeyError:
        pytest.skip("there is no such user")


def test_a_file_that_root_alone_may_read_is_unreadable_for_another(tmp_path: Path, nobody: str) -> None:
    file = tmp_path / "ollama-guard.toml"
    file.write_text("")
    file.chmod(0o600)
    assert unreadable_by(nobody, file)
    file.chmod(0o644)
    tmp_path.chmod(0o700)
    assert unreadable_by(nobody, file), "the folders above count"
    assert not unreadable_by("root", file)
    assert not unreadable_by(nobody, Path("/etc/passwd"))


def test_of_a_user_or_a_file_that_is_not_there_nothing_is_said(tmp_path: Path, nobody: str) -> None:
    assert not unreadable_by("no-such-user", tmp_path)
    assert not unreadable_by(nobody, tmp_path / "none")


def policy_as_nobody(root: Path) -> dict[str, Any]:
    """What `owners_policy` makes, for another user, of the file at its usual place below ``root``."""

    def look() -> str:
        become_nobody()
        unknown: dict[str, str] = {}
        policy, problems = owners_policy(root, None, unknown)
        return json.dumps({"url": policy.ollama.url, "problems": problems, "unknown": unknown})

    owners_policy(root, None, {})  # so that all is imported that this user can't import
    return dict(json.loads(within(10, look)))


def test_a_file_that_is_for_the_guard_alone_is_no_problem_for_who_may_not_read_it(everybodys: Path) -> None:
    """Nor is a folder into which this user may not look; a file that all may read is judged."""
    file = everybodys / "etc/ollama-guard/ollama-guard.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[ollama]\nurl = "http://127.0.0.1:9"\n')
    assert policy_as_nobody(everybodys) == {"url": "http://127.0.0.1:9", "problems": [], "unknown": {}}
    not_known = {
        "url": Policy().ollama.url,
        "problems": [],
        "unknown": {
            "the guard's configuration": "/etc/ollama-guard/ollama-guard.toml: this user may not read it"
        },
    }
    file.chmod(0o640)
    assert policy_as_nobody(everybodys) == not_known
    file.chmod(0o644)
    file.parent.chmod(0o750)
    assert policy_as_nobody(everybodys) == not_known
    unknown: dict[str, str] = {}
    file.write_text("[olama]\n")
    policy, problems = owners_policy(everybodys, None, unknown)
    assert (policy, len(problems), unknown) == (Policy(), 1, {})


def test_a_guard_that_does_not_answer_is_judged_by_the_age_of_its_file(tmp_path: Path) -> None:
    """It listens and says nothing: it may be starting, or stand still for hours."""
    where = Places(None, tmp_path / "run", tmp_path / "state")
    file = where.state_dir / "public/status.json"
    for folder in (where.runtime_dir, file.parent):
        folder.mkdir(parents=True)
    file.write_text("{}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(where.runtime_dir / "status.sock"))
        listener.listen()
        _, facts, status = guard_facts(where, tmp_path)
        assert (facts.answers, status, list(running(facts))) == (None, {}, [])
        assert "has not answered within 5 s" in facts.unknown["the guard's status"]
        hours_ago = time.time() - 7200
        os.utime(file, (hours_ago, hours_ago))
        _, facts, _ = guard_facts(where, tmp_path)
    (finding,) = running(facts)
    assert "2.0 h old" in finding.what


@pytest.mark.parametrize(
    ("answers", "mend"),
    [(True, "ollama-guard quarantine add"), (None, "ollama-guard quarantine add"), (False, "ollama rm")],
)
def test_only_where_no_guard_runs_a_model_has_to_be_removed(answers: bool | None, mend: str) -> None:  # noqa: FBT001
    """That this user may not ask it is no reason to lose a model."""
    machine = Machine(2**30, servers=(Server(7),), models=(Installed(("large",), 2**31),))
    (finding,) = never_fits(machine, GuardFacts(answers=answers), Policy())
    assert finding.mend.startswith(mend)
