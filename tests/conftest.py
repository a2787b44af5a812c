"""Tiers, repetition and the fixtures that hand out beds.

A test's folder is its tier. A tier that can't run here is skipped with its reason, unless the environment
variable OLLAMA_GUARD_REQUIRE names it (a comma list: `real,smallhost,docker`): then being unable is a
failure.
"""

import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from beds import BedUnavailable
from beds.cgroups import MemoryCgroup
from beds.docker import DockerEngine
from beds.docker_ollama import ContainerOllama
from beds.freezer import Freezer
from beds.http import free_port as find_free_port
from beds.ollama_install import Installation
from beds.real_ollama import RealOllama, install_with_models, is_prepared
from beds.smallhost import SmallHost
from beds.yard import CONTROLS, GIB

TIERS = ("unit", "scenarios", "integration", "real", "smallhost", "docker", "litellm", "vm")
"""In the order in which they run: what fails fast fails first."""

WAITERS_END = 0.8
"""After this share of all others the last test of Docker begins: the longest of them takes three minutes."""

STORYTELLERS = frozenset({"real", "smallhost"})
"""Where the numbered promises are told. They vary from run to run on a live machine: `--repeat`."""

VM_SECONDS = 3600
"""For one test in the emulator, and for building and booting it before the first."""

LITELLM_SECONDS = 1800
"""For one test of the proxy, and for installing and starting it before the first."""

WORKERS_PER_CORE, WORKERS_MOST, WORKER_BYTES = 3, 6, 7 * GIB // 2
"""For `-n auto`: the tests mostly wait for their programs, and the few largest take a machine of 4 GiB."""

LONG_ANSWER_EVERY = 5
"""Meanwhile the story holds 2.5 to 4 GiB, so few go on at a time: all of them would take hours more."""

SOAK_CONTROL_USES = 2
"""In the long form a story with the guard off is told anew after so many uses of what it told."""

_NUMBERED = re.compile(r"test_\d+_")
_HERE = Path(__file__).parent
_LEFT_OUT = {"litellm": "its proxy takes 760 MB of disk and 1 GB of memory", "vm": "it takes half an hour"}
"""Tiers that run where they are named or required only, and why."""

_unavailable_key = pytest.StashKey[dict[str, str]]()
_installation_key = pytest.StashKey[Installation | BedUnavailable]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ollama-guard")
    group.addoption("--repeat", type=int, default=1, help="tell each numbered promise N times")
    group.addoption(
        "--accept-incidents", action="store_true", help="write today's decisions into tests/incidents"
    )
    group.addoption("--soak", action="store_true", help="run the long forms (5-minute clients)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_unavailable_key] = {}
    CONTROLS.uses_most = SOAK_CONTROL_USES if config.getoption("soak") else 0
    # A cancelled run ends like an interrupted one: the fixtures remove their beds.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the heavy tiers to who names their folder or requires them."""
    heavy = collection_path.parent == _HERE and collection_path.name in _LEFT_OUT
    return True if heavy and _is_left_out(collection_path.name, config) else None


def _is_left_out(tier: str, config: pytest.Config) -> bool:
    """Whether only a folder around it was named."""
    folder = _HERE / tier
    named = [Path(name.partition("::")[0]).resolve() for name in config.args]
    meant = any(path.is_relative_to(folder) for path in named) or tier in _required()
    return not meant and any(folder.is_relative_to(path) for path in named)


def _required() -> list[str]:
    return os.environ.get("OLLAMA_GUARD_REQUIRE", "").split(",")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many tests side by side as this machine bears, at least one."""
    del config
    free = psutil.virtual_memory().available // WORKER_BYTES
    return max(1, min(WORKERS_PER_CORE * len(os.sched_getaffinity(0)), free, WORKERS_MOST))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    times: int = metafunc.config.getoption("repeat")
    once = metafunc.definition.get_closest_marker("soak") is not None
    if times > 1 and not once and _is_story(metafunc.definition):
        metafunc.fixturenames.append("repetition")
        ids = [f"run{number}" for number in range(1, times + 1)]
        metafunc.parametrize("repetition", range(times), ids=ids, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("soak"):  # the tests that last 5 minutes are spread over the whole run
        items.sort(key=_repetition)
    else:
        items[:] = _in_order(items)
    for item in items:
        if (tier := _tier(item)) == "vm":
            item.add_marker("vm")
            item.add_marker(pytest.mark.xdist_group("vm"))
            item.add_marker(pytest.mark.timeout(VM_SECONDS))
        if tier in STORYTELLERS:
            item.add_marker(tier)
            item.add_marker(pytest.mark.xdist_group(_story(item)))
        if _is_story(item):
            item.add_marker("story")
        if tier == "docker":
            item.add_marker(tier)
        if tier == "litellm":
            item.add_marker(tier)
            item.add_marker(pytest.mark.xdist_group(tier))  # two proxies, shared by all its tests
            item.add_marker(pytest.mark.timeout(LITELLM_SECONDS))
        if item.get_closest_marker("soak") and not config.getoption("soak"):
            item.add_marker(pytest.mark.skip(reason="a long form: `make soak` runs it"))


def _in_order(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """By tier; but those that mostly wait for Docker are spread among those that compute, and end before."""
    rank = {tier: place for place, tier in enumerate(TIERS)}
    computing = sorted(
        (i for i in items if _tier(i) != "docker"), key=lambda i: rank.get(_tier(i), len(rank))
    )
    waiting = [item for item in items if _tier(item) == "docker"]
    places = [(k / len(computing), item) for k, item in enumerate(computing)]
    places += [(k / len(waiting) * WAITERS_END, item) for k, item in enumerate(waiting)]
    return [item for _, item in sorted(places, key=lambda place: place[0])]


def _repetition(item: pytest.Item) -> int:
    callspec = getattr(item, "callspec", None)
    return int(callspec.params.get("repetition", 0)) if callspec is not None else 0


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install the real Ollama before the first test: a slow download is not a test's time-out."""
    config = session.config
    needed = any("ollama_installation" in getattr(item, "fixturenames", ()) for item in session.items)
    if not needed or config.getoption("collectonly"):
        return
    _say_preparing(config)
    try:
        config.stash[_installation_key] = install_with_models()
    except BedUnavailable as problem:
        config.stash[_installation_key] = problem


def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Workers that prepare something have nobody to tell it to."""
    _say_preparing(config)


def _say_preparing(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not is_prepared():
        reporter.write_line(
            "\nthe live tiers first prepare a real Ollama and its models (about a minute, once)"
        )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let whoever started this worker know what it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["unavailable"] = session.config.stash[_unavailable_key]


def pytest_testnodedown(node: Any) -> None:
    """A worker has ended."""
    node.config.stash[_unavailable_key].update(getattr(node, "workeroutput", {}).get("unavailable", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for tier, reason in config.stash[_unavailable_key].items():
        terminalreporter.write_line(
            f"tier {tier}: some or all tests were left out here, since {reason}", yellow=True
        )
    for tier, reason in _LEFT_OUT.items():
        if _is_left_out(tier, config):
            terminalreporter.write_line(
                f"tier {tier}: not part of `make test`, since {reason}; `make test-{tier}` runs it",
                yellow=True,
            )


def _tier(item: pytest.Item | pytest.Function) -> str:
    """The folder below tests/ that the test lives in."""
    return item.path.relative_to(_HERE).parts[0] if item.path.is_relative_to(_HERE) else ""


def _is_story(item: pytest.Item | pytest.Function) -> bool:
    """Whether it tells one of the numbered promises."""
    return _tier(item) in STORYTELLERS and _NUMBERED.match(item.name) is not None


def _story(item: pytest.Item) -> str:
    """A test without its repetitions, which share what is told once a process."""
    return re.sub(r"\brun\d+\b", "", item.nodeid)


def _give_up(request: pytest.FixtureRequest, problem: BedUnavailable) -> NoReturn:
    tier = _tier(request.node)
    if tier in _required():
        pytest.fail(f"the tier {tier} is required (OLLAMA_GUARD_REQUIRE), but {problem}", pytrace=False)
    request.config.stash[_unavailable_key][tier] = str(problem)
    pytest.skip(f"{tier}: {problem}")


@pytest.fixture
def give_up(request: pytest.FixtureRequest) -> Callable[[BedUnavailable], NoReturn]:
    """For a tier's own beds: skip the test with the reason, or fail where the tier is required."""
    return lambda problem: _give_up(request, problem)


@pytest.fixture
def repetition(request: pytest.FixtureRequest) -> int:
    """Which run of a repeated test this is, from 0."""
    return int(request.param)


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether this is `make soak`: let clients run for 5 minutes instead of 20 s."""
    return bool(request.config.getoption("soak"))


@pytest.fixture
def long_answer(request: pytest.FixtureRequest, soak: bool) -> bool:  # noqa: FBT001
    """Whether an answer takes 5 minutes: in every fifth run of `make soak`, since all else waits for it."""
    return soak and _repetition(request.node) % LONG_ANSWER_EVERY == 0


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on."""
    return find_free_port()


@pytest.fixture
def ollama_installation(request: pytest.FixtureRequest) -> Installation:
    """The installed real Ollama with its shelf of models (see beds/real_ollama.py for their sizes)."""
    installation = request.config.stash[_installation_key]
    if isinstance(installation, BedUnavailable):
        _give_up(request, installation)
    return installation


@pytest.fixture
def real_ollama(
    request: pytest.FixtureRequest, ollama_installation: Installation
) -> Iterator[Callable[..., RealOllama]]:
    """Starts real servers: `real_ollama(launcher=cgroup.popen, env=…)`; they end with the test."""
    with ExitStack() as stack:

        def start(**options: Any) -> RealOllama:
            try:
                return stack.enter_context(RealOllama(ollama_installation, **options))
            except BedUnavailable as problem:
                _give_up(request, problem)

        yield start


@pytest.fixture
def memory_cgroup(request: pytest.FixtureRequest) -> Iterator[Callable[[int], MemoryCgroup]]:
    """Makes memory cgroups: `memory_cgroup(limit_bytes)`; they and what lives in them end with the test."""
    with ExitStack() as stack:

        def make(limit_bytes: int) -> MemoryCgroup:
            try:
                return stack.enter_context(MemoryCgroup(limit_bytes))
            except BedUnavailable as problem:
                _give_up(request, problem)

        yield make


@pytest.fixture
def freezer(request: pytest.FixtureRequest) -> Iterator[Freezer]:
    """A cgroup that can be frozen; it thaws and goes with the test."""
    try:
        with Freezer() as made:
            yield made
    except BedUnavailable as problem:
        _give_up(request, problem)


@pytest.fixture
def small_host(request: pytest.FixtureRequest) -> Iterator[Callable[[int], SmallHost]]:
    """Switches small hosts on: `small_host(memory_bytes)`; they go off with the test."""
    with ExitStack() as stack:

        def switch_on(memory_bytes: int) -> SmallHost:
            try:
                return stack.enter_context(SmallHost(memory_bytes))
            except BedUnavailable as problem:
                _give_up(request, problem)

        yield switch_on


@pytest.fixture(scope="session")
def own_dockerd() -> Iterator[DockerEngine | BedUnavailable]:
    """This worker's Docker engine, made when the first test asks for one."""
    with ExitStack() as stack:
        try:
            engine: DockerEngine | BedUnavailable = stack.enter_context(DockerEngine())
        except BedUnavailable as problem:
            engine = problem
        yield engine


@pytest.fixture
def docker_engine(
    request: pytest.FixtureRequest, own_dockerd: DockerEngine | BedUnavailable
) -> Iterator[DockerEngine]:
    """A Docker engine (see beds/docker.py); its containers end with the test."""
    if isinstance(own_dockerd, BedUnavailable):
        _give_up(request, own_dockerd)
    yield own_dockerd
    own_dockerd.clear()


@pytest.fixture
def docker_ollama(
    docker_engine: DockerEngine, ollama_installation: Installation
) -> Iterator[Callable[..., ContainerOllama]]:
    """Starts real servers in containers: `docker_ollama(container={"restart": "always"}, env=…)`."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            ContainerOllama(docker_engine, ollama_installation, **options)
        )
