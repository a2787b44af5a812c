"""Whose a process is, over a /proc of files: servers, runners, orphans, and all those who only look alike."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from ollama_guard.core.model import CatalogueEntry, RunnerReading
from ollama_guard.core.pace import Glance
from ollama_guard.core.policy import OllamaPolicy, Policy
from ollama_guard.sentinel.sensors.tracked import MEMBERSHIP_SECONDS
from unit.sensors.sensor_tree import BLOB, CGROUP, GIB, MIB, MODELS, Tree, Watcher, llama_server

Watch = Callable[..., Watcher]
OTHER_CGROUP = "0::/user.slice/user-1000.slice\n"


def with_runner(tree: Tree) -> None:
    tree.server(50)
    tree.process(70, "llama-server", llama_server(), parent=50, anon=2 * GIB)


def test_a_server_is_who_says_serve_and_a_runner_is_its_child(tree: Tree, watch: Watch) -> None:
    with_runner(tree)
    snapshot = watch().settle()
    (server,), (runner,) = snapshot.servers, snapshot.runners
    assert (server.pid, server.uid, server.cgroup) == (50, 998, "/system.slice/ollama.service")
    assert "serve" in server.proof
    assert (runner.key, runner.server_pid, runner.proven) == ((70, 1000), 50, True)
    assert (runner.blob, runner.context_tokens, runner.port) == (f"sha256:{BLOB}", 4096, 4711)
    assert (runner.anon_bytes, runner.shmem_bytes, runner.file_bytes, runner.swap_bytes) == (
        2 * GIB,
        0,
        2 * MIB,
        0,
    )
    assert (runner.cpu_seconds, runner.major_faults, runner.born_at) == (2.0, 7, 10.0)
    assert runner.weights_mapped is False
    assert snapshot.blind == ()


def test_the_older_dialect_is_told_from_its_server_by_argv_alone(tree: Tree, watch: Watch) -> None:
    """Both go by the name `ollama-lib`."""
    tree.process(50, "ollama-lib", ["/x/ollama-lib", "serve"])
    path = f"{MODELS}/blobs/sha256-{BLOB}"
    tree.process(70, "ollama-lib", f"/x/ollama-lib runner --model {path} --ctx-size 8192".split(), parent=50)
    snapshot = watch().settle()
    assert [server.pid for server in snapshot.servers] == [50]
    assert [(runner.pid, runner.context_tokens) for runner in snapshot.runners] == [(70, 8192)]


def test_the_children_of_a_wrapped_binary_are_its_runners(tree: Tree, watch: Watch) -> None:
    """On NixOS the server is called by its wrapper's name, and its runners by that of the file itself."""
    tree.process(50, ".ollama-wrapped", ["/run/current-system/sw/bin/ollama", "serve"])
    path = f"{MODELS}/blobs/sha256-{BLOB}"
    line = f"/nix/store/x-ollama/bin/.ollama-wrapped runner --model {path}"
    tree.process(70, ".ollama-wrapped", line.split(), parent=50)
    tree.process(
        71, ".llama-server-w", ["/nix/store/x/.llama-server-wrapped", *llama_server()[1:]], parent=50
    )
    snapshot = watch().settle()
    assert [server.pid for server in snapshot.servers] == [50]
    assert sorted((runner.pid, runner.proven) for runner in snapshot.runners) == [(70, True), (71, True)]


@pytest.mark.parametrize(
    ("comm", "argv"),
    [
        ("ollama", ["/usr/bin/ollama", "run", "x"]),
        ("ollama-proxy", ["/usr/bin/ollama-proxy", "serve"]),
        ("ollama-guard", ["/usr/bin/ollama-guard", "serve"]),
        ("docker-proxy", ["docker-proxy", "-host-port", "11434"]),
        ("bash", ["ollama", "serve"]),
        ("ollama", []),
    ],
)
def test_nobody_else_is_a_server(tree: Tree, watch: Watch, comm: str, argv: list[str]) -> None:
    tree.process(50, comm, argv)
    tree.process(70, "llama-server", llama_server(), parent=50)
    snapshot = watch().settle()
    assert (snapshot.servers, snapshot.runners) == ((), ())


def test_gpu_discovery_is_no_runner(tree: Tree, watch: Watch) -> None:
    tree.server(50)
    tree.process(70, "llama-server", ["/usr/lib/ollama/llama-server", "--list-devices"], parent=50)
    assert watch().settle().runners == ()


@pytest.mark.parametrize("parent", [1, 40])
def test_a_users_own_llama_server_is_never_listed(tree: Tree, watch: Watch, parent: int) -> None:
    """Not even with Ollama's blob, as Ollama's user, beside a running server."""
    with_runner(tree)
    tree.process(40, "bash", ["bash"], cgroup=OTHER_CGROUP)
    path = f"{MODELS}/blobs/sha256-{BLOB}"
    tree.process(71, "llama-server", f"llama-server --model {path} --port 1".split(), parent=parent)
    assert [runner.pid for runner in watch().settle().runners] == [70]


def test_a_newborn_is_seen_at_the_cheap_look_and_proven_soon_after(tree: Tree, watch: Watch) -> None:
    tree.server(50)
    watcher = watch()
    watcher.settle()
    tree.process(70, "llama-server", llama_server(), parent=50)
    assert watcher.sensors.births(watcher.now + 0.1)
    (known,) = watcher.settle(0.15).runners
    assert (known.proven, known.key) == (True, (70, 1000))


def test_between_fork_and_exec_a_child_still_shows_its_servers_argv(tree: Tree, watch: Watch) -> None:
    tree.server(50)
    watcher = watch()
    watcher.settle()
    tree.process(70, "ollama", ["/usr/bin/ollama", "serve"], parent=50)
    assert [server.pid for server in watcher.settle(0.1).servers] == [50]
    tree.process(70, "llama-server", llama_server(), parent=50)
    snapshot = watcher.settle(0.2)
    assert [(r.pid, r.proven) for r in snapshot.runners] == [(70, True)]
    assert [server.pid for server in snapshot.servers] == [50]


def test_a_child_that_execs_is_looked_at_again_at_once(tree: Tree, watch: Watch) -> None:
    """A server's fork that gets no processor for long has been asked, and has said no, more than once."""
    tree.server(50)
    watcher = watch()
    watcher.settle()
    tree.process(70, "ollama", ["/usr/bin/ollama", "serve"], parent=50)
    for _ in range(3):
        assert watcher.settle(0.2).runners == ()
    tree.process(70, "llama-server", llama_server(), parent=50)
    assert [(r.pid, r.proven) for r in watcher.settle(0.001).runners] == [(70, True)]


def test_births_notices_a_death_and_nothing_else(tree: Tree, watch: Watch) -> None:
    with_runner(tree)
    watcher = watch()
    watcher.settle()
    assert not watcher.sensors.births(watcher.now + 0.1)
    tree.kill(70)
    watcher.sensors._identity.runners[(70, 1000)].process.close()
    assert watcher.sensors.births(watcher.now + 0.2)
    assert watcher.look().runners == ()


def test_a_glance_sees_of_memory_and_work_what_a_full_look_sees(tree: Tree, watch: Watch) -> None:
    tree.server(50, cgroup="0::/one\n")
    tree.process(70, "llama-server", llama_server(), parent=50, cgroup="0::/one\n")
    tree.limit("/one", max=4 * GIB, high="max", current=3 * GIB)
    watcher = watch()
    watcher.settle()
    tree.limit("/one", max=4 * GIB, high="max", current=2 * GIB)
    tree.meminfo(16 * GIB, 9 * GIB)
    glance = watcher.sensors.glance(watcher.now + 0.1)
    assert glance == Glance.of(watcher.look())
    assert set(glance.available_bytes) == {"host", "container"}
    tree.kill(70)
    watcher.sensors._identity.runners[(70, 1000)].process.close()
    assert watcher.sensors.glance(watcher.now + 0.1).cpu_seconds == {(70, 1000): None}


def test_the_cheap_look_trusts_a_server_whose_end_would_wake_us_but_not_for_births(tree: Tree) -> None:
    """What else may become of it (here: it execs another program) is seen by the next full look."""
    with_runner(tree)
    watcher = Watcher(tree, Policy(), open_pidfd=lambda _: os.pidfd_open(os.getpid()))
    watcher.settle()
    tree.process(71, "llama-server", llama_server(), parent=50)
    assert watcher.sensors.births(watcher.now + 0.1)
    assert len(watcher.settle(0.2).runners) == 2
    tree.write("50/stat", (tree.proc / "50/stat").read_text().replace("(ollama)", "(other)"))
    assert not watcher.sensors.births(watcher.now + 0.1)
    assert watcher.look(0.2).servers == ()
    watcher.sensors.close()


def test_a_restarted_server_with_a_new_pid_is_found_at_once(tree: Tree, watch: Watch) -> None:
    tree.server(50)
    watcher = watch()
    watcher.settle()
    tree.kill(50)
    watcher.sensors._identity.servers[(50, 900)].process.close()
    assert watcher.look().servers == ()
    tree.server(55, start=2000)
    assert [server.pid for server in watcher.settle(0.6).servers] == [55]


@pytest.mark.parametrize("recovering", [True, False])
def test_while_a_playbook_restarts_it_a_server_is_found_before_it_can_load(
    tree: Tree, watch: Watch, *, recovering: bool
) -> None:
    tree.server(50)
    watcher = watch()
    watcher.settle()
    tree.kill(50)
    watcher.sensors._identity.servers[(50, 900)].process.close()

    def births(seconds: float) -> bool:
        watcher.now += seconds
        return watcher.sensors.births(watcher.now, recovering=recovering)

    assert births(0.01), "it has ended"
    births(0.01)
    tree.server(55, start=2000)
    births(0.03)
    watcher.wait()
    assert births(0.001) is recovering


def test_of_two_servers_the_one_that_is_restarted_is_found_as_soon(tree: Tree, watch: Watch) -> None:
    """The other one is no reason to look more rarely."""
    tree.server(50)
    tree.server(60)
    watcher = watch()
    watcher.settle()
    tree.kill(50)
    watcher.sensors._identity.servers[(50, 900)].process.close()
    for _ in range(6):
        assert [server.pid for server in watcher.look(0.5).servers] == [60]
    tree.server(55, start=2000)
    assert [server.pid for server in watcher.settle(0.6).servers] == [60, 55]


def test_a_runner_that_outlives_its_server_stays_proven(tree: Tree, watch: Watch) -> None:
    with_runner(tree)
    watcher = watch()
    watcher.settle()
    tree.kill(50)
    watcher.sensors._identity.servers[(50, 900)].close()
    snapshot = watcher.look()
    assert snapshot.servers == ()
    (orphan,) = snapshot.runners
    assert (orphan.pid, orphan.server_pid, orphan.proven) == (70, None, True)
    assert "while that lived" in orphan.proof
    assert watcher.sensors.still_the_same(70, orphan) == ""


def test_an_orphan_stays_the_same_whoever_adopts_it_next(tree: Tree, watch: Watch) -> None:
    """A shim or a user's systemd takes it, and ends as well: it could never have been killed again."""
    with_runner(tree)
    tree.process(40, "systemd", ["/lib/systemd/systemd", "--user"])
    watcher = watch()
    watcher.settle()
    tree.kill(50)
    tree.reparent(70, 40)
    watcher.sensors._identity.servers[(50, 900)].close()
    (orphan,) = watcher.look().runners
    assert watcher.sensors.still_the_same(70, orphan) == ""
    tree.kill(40)
    (orphan,) = watcher.look().runners
    assert (orphan.server_pid, orphan.proven) == (None, True)
    assert watcher.sensors.still_the_same(70, orphan) == ""


def test_the_runner_of_a_server_that_took_another_name_is_no_orphan(tree: Tree, watch: Watch) -> None:
    """Its server is looked at anew, and has been there all the time."""
    with_runner(tree)
    watcher = watch()
    watcher.settle()
    tree.process(50, "ollama-lib", ["/x/ollama-lib", "serve"], start=900)
    tree.write("50/task/50/children", "70 ")
    snapshot = watcher.look()
    assert [runner.server_pid for runner in snapshot.runners] == [50]
    watcher.wait()
    snapshot = watcher.settle()
    assert [server.pid for server in snapshot.servers] == [50]
    assert [(runner.server_pid, runner.proven) for runner in snapshot.runners] == [(50, True)]


CATALOGUE = (CatalogueEntry(f"sha256:{BLOB}", ("m:latest",), 1, models_dir=MODELS),)


def test_an_orphan_from_before_the_guards_start_is_proven_by_what_it_left_with(
    tree: Tree, watch: Watch
) -> None:
    tree.server(50)
    tree.process(70, "llama-server", llama_server(), parent=1)
    watcher = watch()
    assert watcher.settle().runners == ()  # the models directory is not known yet
    watcher.catalogue = CATALOGUE
    (orphan,) = watcher.settle(25).runners
    assert (orphan.pid, orphan.proven, orphan.server_pid) == (70, True, None)
    assert "orphan of ollama serve 50" in orphan.proof


@pytest.mark.parametrize(
    "wrong",
    [
        {"user": 1000},
        {"cgroup": OTHER_CGROUP},
        {"parent": 40},
        {"argv": llama_server(models="/home/me/models")},
        {"argv": ["llama-server", "--model", f"{MODELS}/blobs/sha256-{BLOB}"]},
    ],
    ids=["user", "cgroup", "parent", "models", "signature"],
)
def test_a_would_be_orphan_with_one_thing_wrong_is_nobody(
    tree: Tree, watch: Watch, wrong: dict[str, object]
) -> None:
    tree.server(50)
    tree.process(40, "bash", ["bash"])
    facts: dict[str, object] = {"argv": llama_server(), "parent": 1} | wrong
    tree.process(70, "llama-server", **facts)
    watcher = watch()
    watcher.catalogue = CATALOGUE
    watcher.settle()
    assert watcher.settle(25).runners == ()


@pytest.mark.parametrize(
    "policy",
    [
        OllamaPolicy(user_id=998),
        OllamaPolicy(cgroup="/system.slice"),
        OllamaPolicy(cgroup="/system.slice/ollama.service"),
    ],
)
def test_the_owner_narrows_which_servers_are_guarded(tree: Tree, watch: Watch, policy: OllamaPolicy) -> None:
    tree.server(50)
    tree.server(60, cgroup=OTHER_CGROUP, user=1000)
    assert [server.pid for server in watch(Policy(ollama=policy)).settle().servers] == [50]


def test_a_reload_drops_servers_that_are_not_meant_any_more(tree: Tree, watch: Watch) -> None:
    with_runner(tree)
    watcher = watch()
    assert watcher.settle().runners
    watcher.sensors.reconfigure(Policy(ollama=OllamaPolicy(user_id=7)))
    snapshot = watcher.settle()
    assert (snapshot.servers, snapshot.runners) == ((), ())
    watcher.sensors.reconfigure(Policy())
    assert watcher.settle().runners


@pytest.fixture
def proven(tree: Tree, watch: Watch) -> tuple[Watcher, RunnerReading]:
    with_runner(tree)
    watcher = watch()
    (runner,) = watcher.settle().runners
    return watcher, runner


def test_the_recheck_passes_what_has_not_changed(proven: tuple[Watcher, RunnerReading]) -> None:
    watcher, runner = proven
    assert watcher.sensors.still_the_same(70, runner) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": 1001}, "is another one now"),
        ({"comm": "bash"}, "is called 'bash' now"),
        ({"parent": 1}, "the parent of process 70 is 1 now"),
        ({"state": "Z"}, "has exited already"),
    ],
    ids=["start", "comm", "parent", "dead"],
)
def test_the_recheck_names_what_has_changed(
    tree: Tree, proven: tuple[Watcher, RunnerReading], change: dict[str, object], said: str
) -> None:
    watcher, runner = proven
    facts: dict[str, object] = {"comm": "llama-server", "parent": 50} | change
    tree.process(70, **facts)
    assert said in watcher.sensors.still_the_same(70, runner)


def test_a_runner_that_took_another_name_is_spared_until_its_command_line_was_read_again(
    tree: Tree, proven: tuple[Watcher, RunnerReading]
) -> None:
    """A program may name its first thread as it likes; one that became another program is none of ours."""
    watcher, runner = proven
    tree.process(70, "llama-main", llama_server(), parent=50)
    assert "is called 'llama-main' now" in watcher.sensors.still_the_same(70, runner)
    watcher.settle()
    assert watcher.sensors.still_the_same(70, runner) == ""
    tree.process(70, "bash", ("/bin/bash",), parent=50)
    assert "is called 'bash' now" in watcher.sensors.still_the_same(70, runner)
    watcher.settle()
    assert watcher.sensors.still_the_same(70, runner) != ""


def test_the_recheck_refuses_the_gone_and_the_unproven(
    tree: Tree, proven: tuple[Watcher, RunnerReading]
) -> None:
    watcher, runner = proven
    assert "not proven" in watcher.sensors.still_the_same(70, replace(runner, proven=False))
    assert "another one" in watcher.sensors.still_the_same(50, runner)
    tree.kill(70)
    assert "exited" in watcher.sensors.still_the_same(70, runner)


def test_unreadable_memory_has_a_reason_and_the_rest_is_still_read(tree: Tree, watch: Watch) -> None:
    with_runner(tree)
    tree.meminfo(GIB, 2 * GIB)
    snapshot = watch().settle()
    assert snapshot.domains[0].available_bytes is None
    assert "larger than MemTotal" in snapshot.domains[0].reason
    assert len(snapshot.runners) == 1


def test_without_children_files_births_are_found_by_scanning(tree: Tree, watch: Watch) -> None:
    with_runner(tree)
    for path in tree.proc.glob("*/task/*/children"):
        path.unlink()
    watcher = watch()
    assert [runner.pid for runner in watcher.settle().runners] == [70]
    tree.process(71, "llama-server", llama_server("b" * 64), parent=50)
    (tree.proc / "50/task/50/children").unlink()
    watcher.look(0.6)
    assert {runner.pid for runner in watcher.settle().runners} == {70, 71}
    facts = {fact.name: fact for fact in watcher.sensors.capabilities()}
    assert "scan" in facts["children"].sentence
    assert not facts["children"].ok


def test_a_name_with_control_characters_and_a_crowd_are_no_obstacle(tree: Tree, watch: Watch) -> None:
    with_runner(tree)
    for pid in range(1000, 2000):
        tree.process(pid, "x) R 1 (\n", parent=-1, cgroup=CGROUP)
    assert [runner.pid for runner in watch().settle().runners] == [70]


def test_the_tick_never_opens_what_can_hang(tree: Tree, watch: Watch) -> None:
    """Command lines, environments and smaps take the target's memory lock: only the witness reads one.

    And the cgroup of a server that is found takes a lock of all cgroups.
    """
    opened: set[str] = set()
    watching = False

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open":
            opened.add(str(arguments[0]).rsplit("/", 1)[-1])

    sys.addaudithook(note)
    with_runner(tree)
    watcher = watch()
    watching = True
    assert watcher.settle().runners[0].proven
    watching = False
    assert {"stat", "status", "meminfo", "children"} <= opened
    assert not opened & {"cmdline", "environ", "smaps", "smaps_rollup", "maps", "exe", "cgroup"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": 901}, "another one now"),
        ({"comm": "bash"}, "is called 'bash' now"),
        ({"state": "Z"}, "has exited already"),
    ],
    ids=["start", "comm", "dead"],
)
def test_the_recheck_of_a_server_names_what_has_changed(
    tree: Tree, proven: tuple[Watcher, RunnerReading], change: dict[str, object], said: str
) -> None:
    watcher, _ = proven
    (server,) = watcher.look().servers
    assert watcher.sensors.still_the_server(50, server) == ""
    facts: dict[str, object] = {"comm": "ollama", "start": 900} | change
    tree.process(50, **facts)
    assert said in watcher.sensors.still_the_server(50, server)


def test_a_server_whose_starter_has_ended_is_still_the_same(
    tree: Tree, proven: tuple[Watcher, RunnerReading]
) -> None:
    watcher, _ = proven
    (server,) = watcher.look().servers
    tree.reparent(50, 7)
    assert watcher.sensors.still_the_server(50, server) == ""


def test_a_server_that_the_owner_does_not_mean_any_more_is_refused(
    proven: tuple[Watcher, RunnerReading],
) -> None:
    watcher, _ = proven
    (server,) = watcher.look().servers
    watcher.sensors.reconfigure(Policy(ollama=OllamaPolicy(cgroup="/other")))
    assert "not proven" in watcher.sensors.still_the_server(50, server)


def cgroup_of(watcher: Watcher, seconds: float) -> str | None:
    """Where the only server is said to be, at a look so much later."""
    (server,) = watcher.look(seconds).servers
    return server.cgroup


def test_a_server_s_cgroup_is_read_now_and_then_and_not_while_memory_is_short(
    tree: Tree, watch: Watch
) -> None:
    """Before Linux 6.8 that read waits for a lock whose holder may itself wait for memory."""
    tree.server(50, cgroup="0::/one\n")
    watcher = watch()
    watcher.settle()
    watcher.look(MEMBERSHIP_SECONDS)
    tree.write("50/cgroup", "0::/two\n")
    assert cgroup_of(watcher, MEMBERSHIP_SECONDS / 2) == "/one"
    tree.meminfo(16 * GIB, GIB)
    assert cgroup_of(watcher, MEMBERSHIP_SECONDS) == "/one"
    watcher.sensors.births(watcher.now + MEMBERSHIP_SECONDS)
    assert cgroup_of(watcher, 2 * MEMBERSHIP_SECONDS) == "/one"
    tree.meminfo(16 * GIB, 8 * GIB)
    assert cgroup_of(watcher, 0.1) == "/one", "the last look still said that memory is short"
    assert cgroup_of(watcher, 0.1) == "/two"


def test_a_server_that_is_moved_just_after_its_start_is_soon_known_where_it_is(
    tree: Tree, watch: Watch
) -> None:
    tree.server(50, cgroup="0::/one\n")
    watcher = watch()
    watcher.settle()
    tree.write("50/cgroup", "0::/two\n")
    assert cgroup_of(watcher, 1.0) == "/two"


def test_a_server_whose_cgroup_has_gone_is_looked_for_at_once_even_while_memory_is_short(
    tree: Tree, watch: Watch
) -> None:
    one = tree.limit("/one", max=4 * GIB, high="max", current=GIB)
    tree.limit("/two", max=2 * GIB, high="max", current=GIB)
    tree.server(50, cgroup="0::/one\n")
    watcher = watch()
    watcher.settle()
    tree.meminfo(16 * GIB, GIB)
    tree.write("50/cgroup", "0::/two\n")
    assert [domain.capacity_bytes for domain in watcher.look(5.0).domains] == [16 * GIB, 4 * GIB]
    one.rename(tree.cgroup / "hidden")
    for tracked in watcher.sensors._domains._tracked.values():
        tracked.domain.close()  # a removed cgroup's descriptors fail; plain files would go on
    assert [domain.capacity_bytes for domain in watcher.look(1.0).domains] == [16 * GIB, None]
    assert [domain.capacity_bytes for domain in watcher.look(0.1).domains] == [16 * GIB, 2 * GIB]


def test_the_cgroup_of_strangers_is_not_read(tree: Tree, watch: Watch) -> None:
    """A user's own llama-server is told from an orphan by less: see above why that matters."""
    opened: set[str] = set()
    watching = False

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open":
            opened.add(str(arguments[0]))

    sys.addaudithook(note)
    with_runner(tree)
    tree.process(71, "llama-server", ["llama-server", "-m", f"{MODELS}/blobs/sha256-{BLOB}"], parent=1)
    watcher = watch()
    watching = True
    watcher.settle()
    watching = False
    assert f"{tree.proc}/71/stat" in opened
    assert f"{tree.proc}/71/cgroup" not in opened


def test_hidden_processes_make_blind_as_long_as_no_server_was_ever_proven(tree: Tree, watch: Watch) -> None:
    """With hidepid a guard of another user sees no server: that is not the same as that there is none."""
    init = (tree.proc / "1/stat").rename(tree.proc / "hidden")
    watcher = watch()
    (reason,) = watcher.settle().blind
    assert "hidepid" in reason
    assert "no Ollama server can be seen" in reason
    tree.server(50)  # its own user's it sees
    assert watcher.settle(2.0).blind == ()
    tree.kill(50)
    assert watcher.settle(2.0).blind == ()
    init.rename(tree.proc / "1/stat")
    assert watch().settle().blind == ()


def test_nobody_is_blind_before_all_that_can_be_seen_was_looked_at(tree: Tree, watch: Watch) -> None:
    (tree.proc / "1/stat").unlink()
    tree.server(50)
    watcher = watch()
    assert watcher.look().blind == ()
    watcher.wait()
    snapshot = watcher.look(0.01)
    assert (snapshot.blind, [server.pid for server in snapshot.servers]) == ((), [50])


def test_a_runner_whose_first_thread_has_ended_is_there_until_the_last_has(tree: Tree, watch: Watch) -> None:
    """Its memory belongs to all of its threads, and the first one shows none of it any more."""
    with_runner(tree)
    watcher = watch()
    watcher.settle()
    held = (tree.proc / "70/status").read_text()
    tree.process(70, "llama-server", llama_server(), parent=50, state="Z", threads=3)
    tree.write("70/status", "Name:\tllama-server\nUid:\t998\t998\t998\t998\nNSpid:\t70\n")
    tree.write("70/task/70/status", (tree.proc / "70/status").read_text())
    tree.write("70/task/72/status", held)
    (runner,) = watcher.look().runners
    assert (runner.process_state, runner.anon_bytes) == ("Z", 2 * GIB)
    assert watcher.sensors.still_the_same(70, runner) == ""
    tree.process(70, "llama-server", llama_server(), parent=50, state="Z", threads=1)
    assert watcher.look().runners == ()
    assert "exited already" in watcher.sensors.still_the_same(70, runner)
