"""The tables and keys of the file, each with its text for the owner (`settings.tables` says where that goes).

Defaults come from `core.policy`, so that they are stated once. Unknown keys are errors; values are checked
by `settings.values`.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ollama_guard.core.model import Mode, Preference
from ollama_guard.core.policy import GIB, MIB, Authority, ModelRule, Policy, Protect, QuarantineAction
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.settings import values
from ollama_guard.settings.ladder import TierTable, in_order
from ollama_guard.settings.recovery import PlaybookTable
from ollama_guard.settings.tables import Table, named, short_form
from ollama_guard.settings.thresholds import ThresholdsTable
from ollama_guard.settings.values import duration, size_within, whole, word

DEFAULT = Policy()

KIB = 1024

LARGEST_RECLAIM = 0.5  # of a domain: above it, relief would aim at more than soft itself may ask for


class OllamaTable(Table):
    """Where Ollama is, and what may be done to it."""

    url: Annotated[str, values.URL] = DEFAULT.ollama.url
    """Where Ollama answers. The guard's unit reaches 127.0.0.1 alone: another address, also one of this
    machine, needs its drop-in network.conf."""
    authority: Annotated[Authority, word(Authority)] = DEFAULT.ollama.authority
    """How far the guard may go by itself. `"runners"`: unload models and, where that is too slow, kill a
    model's own process, which the server survives. `"server"`: also what `[playbook.freeze]` says, hide
    models that can never fit, and write a cap into Ollama's environment; without it the guard only tells what
    it would have done. A container may say so by its label `ollama-guard.authority=server`."""
    user: Annotated[int | None, values.USER] = Field(default=DEFAULT.ollama.user_id, examples=["ollama"])
    """Which `ollama serve` processes are guarded, where there are several: those of this user. Without this
    line: those of anybody."""
    cgroup: Annotated[str, values.CGROUP] = Field(
        default=DEFAULT.ollama.cgroup, examples=["/system.slice/ollama.service"]
    )
    """As `user`: those in this cgroup or below it. Without this line: in any."""
    poll: Annotated[float, duration(1, 600)] = DEFAULT.ollama.poll_seconds
    """How often Ollama is asked for its loaded models while all is calm. Each time is a line in Ollama's own
    log; births and deaths of runners are seen without asking."""
    unresponsive_after: Annotated[float, duration(2, 3600)] = DEFAULT.ollama.unresponsive_after_seconds
    """After how long a silence the condition `OllamaUnresponsive` holds; longer than `poll`. Ollama is silent
    for up to 10 s while it unloads a model, so slow is not dead."""
    request_timeout: Annotated[float, duration(0.1, 120)] = DEFAULT.ollama.request_timeout_seconds
    """How long one request to Ollama may take in all."""
    runtime: Annotated[RuntimeKind | None, word(RuntimeKind)] = Field(
        default=DEFAULT.ollama.runtime, examples=["docker"]
    )
    """How Ollama is run, where the guard can't find that out by itself. Without this line: as found."""
    runtime_name: Annotated[str, values.RUNTIME_NAME] = Field(
        default=DEFAULT.ollama.runtime_name, examples=["ollama.service"]
    )
    """As `runtime`: the unit, or the container."""
    docker_host: Annotated[str, values.DOCKER_HOST] = Field(
        default=DEFAULT.ollama.docker_host, examples=["unix:///run/user/1000/docker.sock"]
    )
    """Where Docker listens. Without this line: as DOCKER_HOST says, else its usual socket."""
    models_folder: Annotated[str, values.FOLDER] = Field(
        default=DEFAULT.ollama.models_folder, examples=["/usr/share/ollama/.ollama/models"]
    )
    """Where Ollama's models are on this machine (OLLAMA_MODELS). Without this line: as found."""

    @model_validator(mode="after")
    def _outlasts_a_poll(self) -> Self:
        if self.unresponsive_after <= self.poll:
            raise named(
                "unresponsive_after", "is not longer than poll; allowed: more than one poll of silence"
            )
        return self


class ReclaimTable(Table):
    """``"3%"``, ``"500MiB"`` or ``{ share = "3%", at_least = "128MiB" }``."""

    share: Annotated[float | int, BeforeValidator(values.share_or_size)]
    at_least: Annotated[int, BeforeValidator(values.size)] = 0

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if isinstance(self.share, int) and self.at_least:
            raise named("at_least", "has no meaning beside a fixed size; allowed: beside a percentage")
        if self.ratio > LARGEST_RECLAIM:
            raise named("share", "is more than relief can be asked to free; allowed: 0% to 50%")
        return self

    @property
    def ratio(self) -> float:
        """The share as a ratio; 0 for a fixed size."""
        return self.share if isinstance(self.share, float) else 0.0

    @property
    def floor_bytes(self) -> int:
        """What relief aims for at least, in bytes."""
        return self.share if isinstance(self.share, int) else self.at_least


DEFAULT_RECLAIM = ReclaimTable.model_construct(
    share=DEFAULT.min_reclaim_ratio, at_least=DEFAULT.min_reclaim_floor_bytes
)
ReclaimValue = Annotated[
    ReclaimTable, short_form("share", "a share (0% to 50%), a size, or a share with a floor (at_least)")
]


class PolicyTable(Table):
    """How the guard acts."""

    mode: Annotated[Mode, word(Mode, Mode.PAUSED)] = DEFAULT.ollama.mode
    """`"enforce"` acts; `"observe"` decides and logs, and does nothing: a way to try a change of this
    file."""
    transition: Annotated[float, duration(0, 3600)] = DEFAULT.transition_seconds
    """How long memory must be better before a level falls back, so that levels don't flap."""
    min_reclaim: ReclaimValue = DEFAULT_RECLAIM
    """How far above the threshold relief aims. Too little, and the next tick has to act again."""
    post_action_delay: Annotated[float, duration(0, 60)] = DEFAULT.post_action_delay_seconds
    """How long to look at the effect of one step before the next; less when the victim is gone."""
    unload_deadline: Annotated[float, duration(0.5, 600)] = DEFAULT.unload_deadline_seconds
    """How long an unload may take before it counts as failed and the next rung is due."""
    drain_deadline: Annotated[float, duration(1, 3600)] = DEFAULT.drain_deadline_seconds
    """How long a busy model may finish its answer before it is unloaded, where time allows."""
    condemned: Annotated[float, duration(10, 86400)] = DEFAULT.condemned_seconds
    """A model that had to be aborted or killed twice in ten minutes can't fit: for so long its process is
    killed at birth, then for twice as long, up to `condemned_at_most`."""
    condemned_at_most: Annotated[float, duration(10, 30 * 86400)] = DEFAULT.condemned_max_seconds
    """The longest that a model is condemned for; not shorter than `condemned`."""
    kills_per_hour: Annotated[int, whole(1, 3600)] = DEFAULT.kills_per_hour
    """How many kills that freed nothing are allowed in an hour before the guard holds and says so. A kill
    that frees memory of a host at critical is never refused."""

    runners_die_first: Annotated[bool, values.SWITCH] = DEFAULT.runners_die_first
    """Whether the kernel, if it has to kill all the same, is told to take a model's process before anything
    else: its `oom_score_adj` is raised to 500 at its birth. Another user's process needs root or
    CAP_DAC_OVERRIDE for that. A model with `protect = "always"` is left as it is."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.condemned_at_most < self.condemned:
            raise named("condemned_at_most", "is shorter than condemned; allowed: as long or longer")
        return self


class CapTable(Table):
    """How many models may stay loaded."""

    soft_max: Annotated[int | None, whole(1, 1000)] = Field(default=DEFAULT.cap.soft_max, examples=[2])
    """The most that stay loaded; the rest is unloaded when idle. Without this line: as many as fit."""
    hard: Annotated[bool, values.SWITCH] = DEFAULT.cap.hard
    """Whether a bound is also written into Ollama's environment file (with `authority = "server"`): as many
    of the models used within a day as fit together. It takes effect when Ollama starts the next time; nothing
    is restarted for it."""
    hard_max: Annotated[int | None, whole(1, 1000)] = Field(default=DEFAULT.cap.hard_max, examples=[2])
    """The largest bound that is written. Without this line: none is written while all of them fit."""


class RecordTable(Table):
    """The flight recorder: everything that the guard saw, decided and did.

    `ollama-guard replay` decides it again, also with a changed file. A disk that is full, broken or slow
    costs records, never a tick.
    """

    enabled: Annotated[bool, values.SWITCH] = DEFAULT.record.enabled
    """Whether it records."""
    max_total: Annotated[int, size_within(1 * MIB, 1024 * GIB)] = DEFAULT.record.max_total_bytes
    """How much it may keep in all, the oldest files going first. A calm day with three models writes less
    than 18 MiB (on a few GiB of memory, where the guard has to look more often, up to 80), which no SD
    card minds; a minute under pressure 0.2 MiB."""
    max_file: Annotated[int, size_within(64 * KIB, 1 * GIB)] = DEFAULT.record.max_file_bytes
    """How large one file may be; at most half of `max_total`."""
    folder: Annotated[str, values.FOLDER] = Field(
        default=DEFAULT.record.folder, examples=["/var/lib/ollama-guard/traces"]
    )
    """Where the files are. Without this line: the folder `traces` in the state directory. Another place needs
    a `ReadWritePaths=` of its own in the unit."""

    @model_validator(mode="after")
    def _holds_two(self) -> Self:
        if self.max_total < 2 * self.max_file:
            raise named("max_total", "is less than two files; allowed: twice max_file or more")
        return self


class QuarantineTable(Table):
    """Hiding models that can't fit into this machine's memory, however much is unloaded for them.

    With `authority = "runners"` it is only announced. `ollama-guard quarantine` hides and restores by hand.
    """

    enabled: Annotated[bool, values.SWITCH] = DEFAULT.quarantine.enabled
    """Whether such models are hidden at all by the guard itself."""
    action: Annotated[QuarantineAction, word(QuarantineAction)] = DEFAULT.quarantine.action
    """`"hide"` keeps all files: `ollama-guard quarantine restore MODEL` gives it back without a download.
    `"delete"` removes the model once it is hidden and its Modelfile, digest and manifest are written down in
    `quarantine.json` in the state directory; it comes back by `ollama pull`."""
    restore: Annotated[bool, values.SWITCH] = DEFAULT.quarantine.restore
    """Whether a hidden model comes back by itself once it would fit again."""
    restore_after: Annotated[float, duration(60, 7 * 86400)] = DEFAULT.quarantine.restore_after_seconds
    """How long it must have fitted before it comes back."""


class NotifyTable(Table):
    """One webhook that is told of what a person should know of.

    It gets a POST with a JSON document: `text` says what happened and who holds most memory (chats show
    that); `id`, `event`, `time`, `host`, `message`, `fields` and `consumers` are for programs. An alert that
    is not taken comes again, also after a restart. `ollama-guard notify test` sends one.
    """

    webhook: Annotated[str, values.WEBHOOK] = Field(
        default=DEFAULT.notify.webhook, examples=["https://chat.example.org/hooks/abc"]
    )
    """Where to. Told are the begin and the end of a freeze recovery, models that are condemned, hidden or
    restored, a process that SIGKILL does not end, and that the guard gives up. The guard's unit reaches this
    machine alone: a webhook elsewhere needs its drop-in network.conf. A URL with a key in it makes this file
    a secret, which the guard's user still has to read: `chown root:ollama-guard` it, and `chmod 640`. The log
    shows its host only."""
    timeout: Annotated[float, duration(1, 60)] = DEFAULT.notify.timeout_seconds
    """How long one delivery may take in all."""


class ModelTable(Table):
    """What you say about a model, by its name in `ollama list` (any of its names counts for all of them)."""

    preference: Annotated[Preference, word(Preference)] = Field(
        default=ModelRule().preference, examples=["omit"]
    )
    """Who goes first: `"avoid"` goes after the others, `"omit"` is not touched below critical."""
    protect: Annotated[Protect, word(Protect)] = Field(default=ModelRule().protect, examples=["always"])
    """With `"always"` an `"omit"` model is not touched at critical either."""


class File(Table):
    """An empty file protects a 4 GB and a 15 GB machine well: every key may be left out.

    Quantities are text with their unit: a share `"15%"`; a size `"600MiB"`, `"1.5GiB"`, `"2GB"` (a bare K, M,
    G, T is binary); a duration `"500ms"`, `"30s"`, `"10min"`, `"1h 30min"`.
    """

    ollama: OllamaTable = OllamaTable()
    thresholds: ThresholdsTable = ThresholdsTable()
    policy: PolicyTable = PolicyTable()
    cap: CapTable = CapTable()
    record: RecordTable = RecordTable()
    playbook: PlaybookTable = PlaybookTable()
    quarantine: QuarantineTable = QuarantineTable()
    notify: NotifyTable = NotifyTable()
    models: dict[Annotated[str, values.MODEL_NAME], ModelTable] = Field(default={}, examples=["llama3.2:3b"])
    tiers: Annotated[list[TierTable], AfterValidator(in_order)] = Field(default=[])
