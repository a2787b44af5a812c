"""`init`, `release` and `doctor` on a fake Ollama that is run as a unit, a container or a bare process.

What systemd and Docker would tell is laid out below a folder (`--root`); the server, its cgroup, its
environment and its API are real.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest

from beds import BedUnavailable
from beds.box import CONFIG, MAIN, MODELS, Box, laid_out
from beds.guard import Guard
from ollama_guard.settings.compiler import compile_text
from ollama_guard.testing.fake import FakeOllama
from ollama_guard.testing.systemd import FakeUnit

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make cgroups")

MIB, GIB = 1024**2, 1024**3
# PR_CAPBSET_DROP (24) of CAP_DAC_OVERRIDE (1): behind the exec even root is bound by file modes.
BOUND = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0);"
    f"os.execv(sys.executable, [sys.executable, '-I', '-c', {MAIN!r}, *sys.argv[1:]])"
)
NOBODY = 65534
CONTAINER_ID = "0123456789abcdef" * 4
DROP_IN = "/etc/systemd/system/ollama.service.d/ollama-guard.conf"
SCRIPT = "usr/share/ollama-guard/ollama-guard-entrypoint"
UNIT = "[Service]\nExecStart=/usr/local/bin/ollama serve\nUser=ollama\nRestart=always\n"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    try:
        with laid_out(tmp_path) as box:
            yield box
    except BedUnavailable as problem:
        pytest.skip(str(problem))


@pytest.fixture
def unit(box: Box) -> Box:
    """An Ollama as install.sh sets it up."""
    box.start("ollama.service")
    box.put("/etc/systemd/system/ollama.service", UNIT)
    box.configure()
    return box


def test_init_shows_everything_and_writes_nothing(unit: Box) -> None:
    before = unit.tree()
    result = unit.run("init")
    assert (result.returncode, result.stderr) == (0, "")
    assert unit.tree() == before
    toml = result.stdout.partition(f"==> {CONFIG}\n")[2].partition("\n==> ")[0]
    policy = compile_text(toml, "proposed")
    assert policy.ollama.cgroup == f"/{unit.cgroup.name}", "what the owner wrote is in it"
    assert re.search(
        r"^#   small:latest +130 MiB  fits, with every smaller one beside it$", toml, re.MULTILINE
    )
    assert re.search(r"^#   never:latest .* can never fit$", toml, re.MULTILINE)
    assert '#authority = "server"' in toml
    drop_in = result.stdout.partition(f"==> {DROP_IN}\n")[2]
    assert "\nOOMPolicy=continue\n" in drop_in
    assert "\nEnvironment=LLAMA_ARG_CACHE_RAM=64\n" in drop_in
    assert "Nothing was written" in drop_in


def test_apply_writes_it_once_and_a_second_time_finds_no_difference(unit: Box) -> None:
    first = unit.run("init", "--apply")
    assert (first.returncode, first.stderr) == (0, "")
    assert f"+++ {DROP_IN} (as advised)" in first.stdout
    assert "+OOMPolicy=continue" in first.stdout
    assert "in force after: systemctl daemon-reload && systemctl restart ollama.service" in first.stdout
    after = unit.tree()
    second = unit.run("init", "--apply")
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout.startswith("nothing to change: ")
    assert unit.tree() == after


def test_once_the_unit_is_restarted_with_it_there_is_still_no_difference(unit: Box) -> None:
    """Its lines are in the server's environment then, and are not taken for the owner's."""
    unit.run("init", "--apply")
    after = unit.tree()
    lines = re.findall(r"^Environment=(.+)=(.+)$", unit.text(DROP_IN), re.MULTILINE)
    assert len(lines) == 3
    unit.start("ollama.service", dict(lines))
    result = unit.run("init", "--apply")
    assert result.stdout.startswith("nothing to change: "), result.stdout
    assert unit.tree() == after


def test_release_leaves_the_tree_as_it_was_to_the_byte(unit: Box) -> None:
    unit.put(DROP_IN, "[Service\nthis was broken before\n").chmod(0o600)
    unit.put(DROP_IN.replace("ollama-guard", "override"), "[Service]\nEnvironment=OLLAMA_NUM_PARALLEL=2\n")
    before = unit.tree()
    applied = unit.run("init", "--apply")
    assert applied.returncode == 0, applied.stderr
    copies = [path for path in unit.tree() if ".before-ollama-guard-" in path]
    assert len(copies) == 2
    assert {unit.text(path) for path in copies} == {
        before[CONFIG[1:]].decode(),
        "[Service\nthis was broken before\n",
    }
    released = unit.run("release")
    assert (released.returncode, released.stderr) == (0, "")
    assert released.stdout.count("is as it was before") == 2
    assert unit.tree() == before
    assert (unit.root / DROP_IN[1:]).stat().st_mode & 0o777 == 0o600
    again = unit.run("release")
    assert (again.returncode, again.stdout) == (0, "there is nothing to undo\n")


def test_on_an_untouched_machine_release_leaves_nothing_behind(box: Box) -> None:
    box.start("ollama.service")
    box.configure()
    (box.root / CONFIG[1:]).rename(box.root / "own.toml")
    (box.root / "etc/ollama-guard").rmdir()
    (box.root / "etc").rmdir()
    before = box.tree()
    assert box.run("init", "--apply", "--config=/own.toml").returncode == 0
    assert (box.root / DROP_IN[1:]).exists()
    assert box.run("release", "--config=/own.toml").returncode == 0
    assert box.tree() == before


def test_the_owners_own_words_stay_in_the_new_file_and_the_old_one_is_kept(unit: Box) -> None:
    unit.configure(
        'authority = "server"\npoll = "20s"\n[cap]\nsoft_max = 1\n[models."small"]\npreference = "omit"\n'
    )
    before = unit.text(CONFIG)
    result = unit.run("init", "--apply")
    kept = re.search(rf"^written: {CONFIG}; what was there is kept as (.*)$", result.stdout, re.MULTILINE)
    assert kept is not None
    assert unit.text(kept[1]) == before
    assert compile_text(unit.text(CONFIG), "new") == compile_text(before, "old")
    assert "# mine" not in unit.text(CONFIG)


def test_what_was_edited_after_init_is_carried_over_by_the_next_one(unit: Box) -> None:
    unit.run("init", "--apply")
    unit.put(CONFIG, unit.text(CONFIG).replace('#authority = "server"', 'authority = "server"'))
    assert unit.run("init", "--apply").returncode == 0
    assert unit.run("init", "--apply").stdout.startswith("nothing to change")
    assert compile_text(unit.text(CONFIG), "new").ollama.authority == "server"


def test_settings_of_the_owners_are_not_overruled_and_what_they_cost_is_said(box: Box) -> None:
    box.start("ollama.service", {"OLLAMA_NUM_PARALLEL": "4", "OLLAMA_MAX_VRAM": "2048000000"})
    box.configure()
    result = box.run("init")
    assert "Environment=OLLAMA_NUM_PARALLEL" not in result.stdout
    assert "* OLLAMA_NUM_PARALLEL=4 is yours and stays. 1 is advised" in result.stdout
    assert "* OLLAMA_MAX_VRAM=2048000000 does nothing" in result.stdout


def test_of_very_many_models_every_one_is_judged(box: Box) -> None:
    box.start("ollama.service", models=[f"m{number}=1MiB" for number in range(40)])
    box.configure()
    toml = box.run("init").stdout
    assert len(re.findall(r"^#   m\d+:latest ", toml, re.MULTILINE)) == 40


def test_who_may_not_write_is_told_so_in_one_sentence_and_nothing_is_written(unit: Box) -> None:
    before = unit.tree()
    for path in (unit.root, *unit.root.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    result = unit.run("init", "--apply", main=BOUND)
    assert result.returncode == 1
    assert result.stderr.startswith("ollama-guard: nothing was written: this user may not write ")
    assert result.stderr.endswith("run it as root: sudo ollama-guard init --apply\n")
    assert result.stderr.count("\n") == 1
    assert unit.tree() == before


def test_a_read_only_disk_is_told_as_what_it_is(unit: Box) -> None:
    """And not as a want of rights: no sudo helps there."""
    before = unit.tree()
    mounts = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    result = unit.run(
        "init", "--apply", within=["unshare", "--mount", "sh", "-c", mounts, "-", str(unit.root)]
    )
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip(result.stderr)
    assert result.returncode == 1
    assert re.fullmatch(
        r"ollama-guard: nothing was written: .* mounted read-only: remount it .*\n", result.stderr
    )
    assert "sudo" not in result.stderr
    assert unit.tree() == before


def test_a_wrong_configuration_is_told_and_nothing_is_written(unit: Box) -> None:
    unit.put(CONFIG, "[ollama]\nurll = 1\n")
    before = unit.tree()
    result = unit.run("init", "--apply")
    assert result.returncode == 78
    assert "unknown key ollama.urll" in result.stderr
    assert unit.tree() == before


# --- a container -------------------------------------------------------------------------------------


def inspected(labels: Mapping[str, str], entrypoint: list[str] | None = None) -> dict[str, Any]:
    return {
        "ApiVersion": "1.41",  # what the library asks first; every question gets this whole answer
        "Id": CONTAINER_ID,
        "Name": "/llm",
        "Config": {
            "Image": "ollama/ollama", "Entrypoint": entrypoint or ["/bin/ollama"], "Cmd": ["serve"],
            "Env": [], "Labels": labels,
        },
        "HostConfig": {"Memory": 0, "PortBindings": {"11434/tcp": [{"HostIp": "", "HostPort": "11434"}]}},
        "Mounts": [],
    }  # fmt: skip


COMPOSE_LABELS = {
    "com.docker.compose.service": "ollama",
    "com.docker.compose.project.working_dir": "/srv/llm",
    "com.docker.compose.project.config_files": "/srv/llm/docker-compose.yml",
    "com.docker.compose.version": "2.20.0",
}


def answering(box: Box, name: str, document: Mapping[str, Any], status: int = 200) -> list[str]:
    """A socket that answers every request so; returns the request lines that came."""
    path, asked, content = box.home / name, list[str](), json.dumps(document).encode()
    path.parent.mkdir(exist_ok=True)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.requestline)
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer  # noqa: N815 (the base class' names)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = box.stack.enter_context(ThreadingUnixStreamServer(str(path), Handler))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    box.stack.callback(thread.join, 5.0)
    box.stack.callback(server.shutdown)
    return asked


def as_container(box: Box, labels: Mapping[str, str], **limits: int) -> None:
    box.start(f"docker-{CONTAINER_ID}.scope")
    box.configure()
    facts = inspected(labels)
    asked = answering(box, "docker.sock", facts | {"HostConfig": facts["HostConfig"] | limits})
    box.docker = f"unix://{box.home}/docker.sock"
    assert asked == []


def test_a_container_of_composes_gets_an_override_beside_its_file(box: Box) -> None:
    as_container(box, COMPOSE_LABELS)
    box.put("/srv/llm/docker-compose.yml", "services: {ollama: {image: ollama/ollama}}\n")
    box.put(SCRIPT, "#!/bin/sh\n")
    before = box.tree()
    first = box.run("init", "--apply")
    assert (first.returncode, first.stderr) == (0, "")
    override = box.text("/srv/llm/docker-compose.override.yml")
    assert 'entrypoint: ["/bin/sh", "/usr/share/ollama-guard/ollama-guard-entrypoint"]' in override
    assert 'command: ["serve"]' in override
    limit = re.search(r"^    mem_limit: (\d+m)$", override, re.MULTILINE)
    assert limit
    assert f"\n    memswap_limit: {limit[1]}\n" in override
    assert "in force after: cd /srv/llm && docker compose up -d ollama\n" in first.stdout
    folder = box.root / "var/lib/ollama-guard/env"
    assert folder.stat().st_mode & 0o777 == 0o755
    assert box.run("init", "--apply").stdout.startswith("nothing to change: ")
    released = box.run("release")
    assert (released.returncode, released.stderr) == (0, "")
    assert box.tree() == before


def test_a_memory_limit_that_compose_might_refuse_is_said_and_not_written(box: Box) -> None:
    as_container(box, COMPOSE_LABELS, NanoCpus=2 * 10**9)
    box.put(
        "/srv/llm/docker-compose.yml", "services: {ollama: {deploy: {resources: {limits: {cpus: '2'}}}}}\n"
    )
    result = box.run("init", "--apply")
    assert (result.returncode, result.stderr) == (0, "")
    assert "mem_limit" not in box.text("/srv/llm/docker-compose.override.yml")
    said = result.stdout.partition("==> to set for the service ollama in its compose file\n")[2]
    assert re.match(
        r"mem_limit: \d+m    # of .*\n# or, where the service has deploy.resources.limits: ", said
    )


def test_an_override_of_the_owners_is_never_touched(box: Box) -> None:
    as_container(box, COMPOSE_LABELS)
    box.put("/srv/llm/docker-compose.yml", "services: {}\n")
    box.put("/srv/llm/docker-compose.override.yml", "services: {ollama: {cpus: 1}}\n")
    result = box.run("init", "--apply")
    assert box.text("/srv/llm/docker-compose.override.yml") == "services: {ollama: {cpus: 1}}\n"
    assert "/srv/llm/ollama-guard.compose.yaml" in result.stdout
    assert "name it with -f each time" in result.stdout
    assert "is not installed, so the container is not told" in result.stdout
    assert "entrypoint" not in box.text("/srv/llm/ollama-guard.compose.yaml")


def test_for_a_plain_container_it_says_what_to_add_and_writes_its_own_file_only(box: Box) -> None:
    as_container(box, {})
    result = box.run("init", "--apply")
    said = result.stdout.partition("==> to add to the `docker run` of llm\n")[2]
    assert re.match(r"--memory (\d+m) --memory-swap \1\n", said)
    assert "--env OLLAMA_NUM_PARALLEL=1\n" in result.stdout
    written = {path for path in box.tree() if (box.root / path).is_file()}
    assert {path for path in written if "before" not in path} == {
        CONFIG[1:],
        "etc/ollama-guard/written-by-init.json",
    }


def test_a_docker_that_can_not_be_asked_is_said(box: Box) -> None:
    box.start(f"docker-{CONTAINER_ID}.scope")
    box.configure()
    assert "* not known: no Docker listens at unix://" in box.run("init").stdout


def test_a_bare_process_gets_lines_to_set_and_a_hint(box: Box) -> None:
    box.start("session.scope")
    box.configure()
    result = box.run("init")
    assert "OLLAMA_NUM_PARALLEL=1    # requests answered at once" in result.stdout
    assert "can relieve it, but not restart it" in result.stdout
    assert DROP_IN not in result.stdout


def test_a_unit_in_which_it_merely_lives_is_left_alone(box: Box) -> None:
    """Ollama started by cron: a drop-in for cron.service would bound every other job, a restart end it."""
    box.start("cron.service")
    box.configure()
    assert box.server is not None
    box.systemd.units = {"cron.service": FakeUnit("cron.service", 1, other_pids=(box.server.pid,))}
    result = box.run("init", "--apply")
    assert (result.returncode, result.stderr) == (0, "")
    assert "can relieve it, but not restart it" in result.stdout
    assert "cron.service" not in "".join(box.tree())
    assert "oom_policy" not in checks(box.run("doctor", "--json"))


def test_without_a_bus_a_server_that_somebody_else_started_is_no_units(unit: Box) -> None:
    """Its parent is this test, not the first process."""
    unit.systemd.__exit__()
    assert DROP_IN not in unit.run("init").stdout


# --- release -----------------------------------------------------------------------------------------


def test_without_a_daemon_release_undoes_what_a_guard_left_behind(unit: Box) -> None:
    hidden = "usr/share/ollama/.ollama/models/manifests/quarantine.registry.ollama.ai/library/big/7b"
    back = hidden.replace("quarantine.", "")
    unit.put(hidden, "{}")
    unit.put("/var/lib/ollama-guard/env/ollama.env", "# the guard's\nOLLAMA_MAX_LOADED_MODELS=1\n")
    result = unit.run("release")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "no longer constrained by OLLAMA_MAX_LOADED_MODELS=1 (it holds until the next start of Ollama)",
        "big:7b is back",
    ]
    assert (unit.root / back).exists()
    assert not (unit.root / hidden).parents[2].exists()


def test_the_models_of_a_running_server_are_found_by_its_own_word(box: Box) -> None:
    store = box.home / "store"
    alias = store / "manifests/quarantine.registry.ollama.ai/library/big/7b"
    alias.parent.mkdir(parents=True)
    alias.write_text("{}")
    box.start("ollama.service", {"OLLAMA_MODELS": str(store)})
    box.configure()
    result = box.run("release")
    assert result.stdout == "big:7b is back\n"
    assert (store / "manifests/registry.ollama.ai/library/big/7b").exists()


def test_what_the_guard_wrote_down_leads_to_a_stopped_servers_models(unit: Box) -> None:
    store = unit.home / "volume"
    alias = store / "manifests/quarantine.registry.ollama.ai/library/big/7b"
    alias.parent.mkdir(parents=True)
    alias.write_text("{}")
    entries = [{"name": "huge:70b", "how": "deleted"}, {"name": "big:7b", "how": "offline"}]
    unit.put("/var/lib/ollama-guard/quarantine.json", json.dumps({"path": str(store), "entries": entries}))
    result = unit.run("release")
    assert (result.returncode, result.stdout) == (1, "big:7b is back\n")
    assert result.stderr == "huge:70b was deleted, as your file said: ollama pull huge:70b\n"


def test_limits_that_only_their_runtime_can_take_back_are_named_with_the_command(unit: Box) -> None:
    limits = {f"docker:{CONTAINER_ID}": {"Memory": 0, "MemorySwap": 0, "NanoCpus": 0}}
    unit.put("/var/lib/ollama-guard/limits.json", json.dumps(limits))
    result = unit.run("release")
    assert result.returncode == 1
    assert result.stderr.endswith("docker update --memory 0 --memory-swap -1 --cpus 0 0123456789ab\n")
    told = json.loads(unit.run("release", "--json").stdout)
    assert (told["ok"], [one["ok"] for one in told["undone"]]) == (False, [False])


def test_a_running_guard_is_asked_first(unit: Box) -> None:
    unit.run("init", "--apply")
    asked = answering(
        unit, "run/control.sock", {"ok": True, "text": "2 constraints taken back", "detail": {}}
    )
    result = unit.run("release")
    assert asked == ["POST /release HTTP/1.1"]
    assert result.returncode == 0
    first, *others = result.stdout.splitlines()
    assert first == "the guard: 2 constraints taken back"
    assert f"removed {DROP_IN}" in others


def test_the_real_guard_releases_what_it_can_and_the_files_follow(unit: Box) -> None:
    before = unit.tree()
    assert unit.run("init", "--apply").returncode == 0
    assert unit.server is not None
    (unit.home / "guard").mkdir()
    with Guard(unit.server.url, cgroup=f"/{unit.cgroup.name}", home=unit.home / "guard") as guard:
        guard.wait_guarding(unit.server.pid)
        result = unit.run("release", f"--runtime-dir={guard.runtime}", f"--state-dir={guard.state}")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("the guard: ")
    assert f"removed {DROP_IN}\n" in result.stdout
    assert unit.tree() == before


def test_a_guard_that_refuses_now_keeps_its_files(unit: Box) -> None:
    unit.run("init", "--apply")
    before = unit.tree()
    answer = {"ok": False, "text": "freeze is running: ask again when it is over", "detail": {}}
    answering(unit, "run/control.sock", answer, 409)
    result = unit.run("release")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "the guard: freeze is running: ask again when it is over\n"
    assert unit.tree() == before


def test_who_may_not_take_it_back_is_told_and_nothing_is_lost(unit: Box) -> None:
    unit.run("init", "--apply")
    before = unit.tree()
    for path in (unit.root, *unit.root.rglob("*")):
        if path.is_dir():
            os.chown(path, NOBODY, NOBODY)
    result = unit.run("release", main=BOUND)
    assert (result.returncode, result.stdout) == (1, "")
    assert (
        f"{DROP_IN}: this user may not take it back; run it as root: sudo ollama-guard release"
        in result.stderr
    )
    assert unit.tree() == before


# --- doctor ------------------------------------------------------------------------------------------


def checks(result: subprocess.CompletedProcess[str]) -> set[str]:
    return {finding["check"] for finding in json.loads(result.stdout)["findings"]}


def test_doctor_finds_what_is_wrong_and_says_how_it_is_mended(box: Box) -> None:
    bad = {"OLLAMA_HOST": "0.0.0.0:1", "OLLAMA_KEEP_ALIVE": "-1", "OLLAMA_MAX_VRAM": "1"}
    box.start("ollama.service", bad)
    box.put("/etc/systemd/system/ollama.service", UNIT)
    box.configure()
    result = box.run("doctor", "--json")
    assert result.returncode == 1
    expected = {"guard", "prompt_cache", "keep_alive", "max_vram", "exposed", *box.watched_by_systemd}
    assert expected <= checks(result)
    text = box.run("doctor").stdout
    assert "keep_alive (advice): ollama.service has OLLAMA_KEEP_ALIVE=-1" in text
    assert "  mend: Environment=OLLAMA_KEEP_ALIVE=5m under [Service]" in text


def test_what_init_wrote_is_no_longer_found(unit: Box) -> None:
    mended = {"prompt_cache", *unit.watched_by_systemd}
    assert mended <= checks(unit.run("doctor", "--json"))
    unit.run("init", "--apply")
    lines = re.findall(r"^Environment=(.+)=(.+)$", unit.text(DROP_IN), re.MULTILINE)
    unit.start("ollama.service", dict(lines))
    unit.configure()
    assert not mended & checks(unit.run("doctor", "--json"))


def test_doctor_tells_of_a_bad_file_and_two_servers(unit: Box) -> None:
    second = FakeOllama(MODELS, cgroup_procs=unit.cgroup.join_paths)
    unit.stack.callback(second.close)
    second.start()
    looks = (checks(unit.run("doctor", "--json")) for _ in range(5))
    assert any("two_servers" in look for look in looks), "a busy machine may need more than one look"
    unit.put(CONFIG, "[ollama]\nurll = 1\n")
    assert "config" in checks(unit.run("doctor", "--json"))


def test_doctor_asks_the_running_guard_what_it_would_have_done(unit: Box) -> None:
    status = {
        "guard": {"pid": os.getpid()},
        "conditions": [{"condition": "Frozen", "reason": "no answer for 90 s"}],
    }
    asked = answering(unit, "run/status.sock", status)
    found = json.loads(unit.run("doctor", "--json").stdout)["findings"]
    assert asked == ["GET /status HTTP/1.1"]
    told = {finding["check"]: finding["what"] for finding in found}
    assert "guard" not in told
    assert told["authority"].endswith("it is frozen: no answer for 90 s")
    unit.configure('authority = "server"\n')
    assert "authority" not in checks(unit.run("doctor", "--json"))
