"""Everything that the show needs running, made in order and cleared away whatever happens."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from ollama_guard.core.policy import MIB
from ollama_guard.demo.staff import Guard, Hog
from ollama_guard.demo.world import Cast, World
from ollama_guard.errors import GuardError
from ollama_guard.sentinel.sensors.files import slurp
from ollama_guard.testing.fake import FakeOllama

SERVER, NEIGHBOUR = "ollama serve", "neighbour"
CHAT, CODER, GIANT = "chat:1b", "coder:3b", "giant:70b"

# Shares of the budget. Chat and coder leave half of it free; without the coder's bytes the neighbour's growth
# ends below soft (20 %) and above hard (10 %), with them there is not enough. The giant fits nowhere.
CHAT_SHARE, CODER_SHARE, GIANT_SHARE = 0.15, 0.30, 1.10
# Bytes per second, as shares of the budget: what the models load at (a disk's pace), and the giant, slow
# enough that a guard that is late by a second is still in time.
LOAD_SHARE, GIANT_LOAD_SHARE = 0.30, 0.12
WORDS_PER_SECOND = 15
# Characters of a path below which the folder's sockets still fit into 107.
_DEEPEST = 60
# The burnt share of a core that makes a runner busy (the guard's bound is 5 %).
CPU_SHARE = 0.25

TRANSITION_MS = 4000
# Sizes of the small world follow its budget alone, without the floors that a real machine needs; levels
# fall back after 4 s rather than 60, and Ollama is asked every 2 s rather than 15, since nobody watches a
# show for so long.
POLICY = """\
[ollama]
url = "{url}"
poll = "2s"
[thresholds.host]
soft = "20%"
hard = "10%"
critical = "5%"
[policy]
min_reclaim = "3%"
transition = "{transition_ms}ms"
"""


class Stage:
    """The fake Ollama, the neighbour, the small world and, unless it is left out, the guard."""

    def __init__(self, budget_bytes: int, *, guarded: bool, pace: float) -> None:
        self.budget_bytes = budget_bytes
        self.pace = pace
        self._guarded = guarded
        self._stack = ExitStack()
        self._names: dict[int, str] = {}
        self._blobs: dict[str, str] = {}
        self.folder: Path
        self.fake: FakeOllama
        self.world: World
        self.hog: Hog | None = None
        self.guard: Guard | None = None

    def __enter__(self) -> Self:
        try:
            self._set()
        except (OSError, TimeoutError) as error:
            self._stack.close()
            raise GuardError(f"the stage could not be set: {error}") from error
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.guard is not None:
            self.guard.ask_to_stop()  # it ends while the others are cleared away
        self._stack.close()

    def _set(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ollama-guard-demo-", dir=_place()))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.fake = FakeOllama(self._models(), env={"OLLAMA_KEEP_ALIVE": "1h"})
        self._stack.callback(self.fake.close)
        self.fake.start()
        blobs = self.fake.state()["blobs"]
        self._blobs = {str(blobs[name]): name for name in (CHAT, CODER, GIANT)}
        self.world = World(self.folder, self.budget_bytes, self._cast)
        self._stack.callback(self.world.close)
        policy = POLICY.format(url=self.fake.url, transition_ms=round(TRANSITION_MS / self.pace))
        (self.folder / "demo.toml").write_text(policy)
        if self._guarded:
            self.guard = Guard(self.folder)
            self._stack.callback(self.guard.close)

    def _models(self) -> list[str]:
        rate, slow = (round(self.budget_bytes * share / MIB) for share in (LOAD_SHARE, GIANT_LOAD_SHARE))
        manner = f"tps={WORDS_PER_SECOND},cpu={CPU_SHARE}"
        return [
            f"{CHAT}={round(self.budget_bytes * CHAT_SHARE / MIB)}MiB,rate={rate},{manner}",
            f"{CODER}={round(self.budget_bytes * CODER_SHARE / MIB)}MiB,rate={rate},{manner}",
            f"{GIANT}={round(self.budget_bytes * GIANT_SHARE / MIB)}MiB,rate={slow},{manner}",
        ]

    @property
    def giant_bytes(self) -> int:
        """What the giant would need, without its cache."""
        return round(self.budget_bytes * GIANT_SHARE / MIB) * MIB

    @property
    def giant_pace(self) -> float:
        """Bytes per second at which the giant would load."""
        return round(self.budget_bytes * GIANT_LOAD_SHARE / MIB) * MIB

    def bring_neighbour(self) -> Hog:
        """Start the neighbour."""
        self.hog = Hog(self.folder)
        self._stack.callback(self.send_neighbour_away)
        return self.hog

    def send_neighbour_away(self) -> None:
        """The neighbour ends, if it is there."""
        hog, self.hog = self.hog, None
        if hog is not None:
            hog.close()

    def check(self) -> None:
        """Whether everybody is there who should be.

        Raises:
            GuardError: somebody ended by itself.
        """
        if self.world.problem:
            raise GuardError(self.world.problem)
        if not self.fake.running:
            raise GuardError(f"the fake Ollama ended by itself: {self.fake.log()[-300:]}")
        if self.guard is not None and not self.guard.alive:
            raise GuardError("the guard ended by itself")
        if self.hog is not None and not self.hog.alive:
            raise GuardError("the neighbour was killed, and not by the guard: is the machine out of memory?")

    def _cast(self) -> Cast:
        """Who is on stage now; runners are known from the moment when they say so themselves."""
        runners = {pid: self._name(pid) for pid in self.fake.orphans()}
        hog = self.hog
        return Cast({self.fake.pid: SERVER, **runners}, {} if hog is None else {hog.pid: NEIGHBOUR})

    def _name(self, pid: int) -> str:
        """The model of a runner, from the blob on its command line."""
        if pid not in self._names:
            line = slurp(f"/proc/{pid}/cmdline") or b""
            found = next((name for blob, name in self._blobs.items() if blob.encode() in line), None)
            if found is None:  # it has ended already
                return SERVER
            self._names[pid] = found
        return self._names[pid]


def _place() -> str:
    """Where the folder is made: the usual place, unless unix sockets can't be that deep (unix(7))."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= _DEEPEST else "/tmp"  # noqa: S108 - mkdtemp makes it ours alone
