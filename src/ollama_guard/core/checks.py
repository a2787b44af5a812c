"""What `doctor` looks for: one word each, and what people read of it in docs/doctor.md. Texts only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Check(StrEnum):
    """The stable words; a finding carries one, and a program that reads ``--json`` relies on them."""

    CONFIG = "config"
    UNREADABLE = "unreadable"
    GUARD = "guard"
    AUTHORITY = "authority"
    RIGHTS = "rights"
    MEMLOCK = "memlock"
    GROUPS = "groups"
    TWO_SERVERS = "two_servers"
    ORPHANS = "orphans"
    EXPOSED = "exposed"
    OOM_POLICY = "oom_policy"
    NO_LIMIT = "no_limit"
    LIMIT = "limit"
    TIER_LIMIT = "tier_limit"
    UNSEEN_LIMIT = "unseen_limit"
    MEMORY_HIGH = "memory_high"
    SWAP_UNBOUNDED = "swap_unbounded"
    SWAP_ACCOUNTING = "swap_accounting"
    MAX_LOADED = "max_loaded"
    PROMPT_CACHE = "prompt_cache"
    PARALLEL = "parallel"
    MAX_QUEUE = "max_queue"
    KEEP_ALIVE = "keep_alive"
    KEEP_ALIVE_GARBAGE = "keep_alive_garbage"
    MAX_VRAM = "max_vram"
    ENVIRONMENT_DRIFT = "environment_drift"
    NEVER_FITS = "never_fits"
    RUNNER_MEMORY = "runner_memory"
    RELOAD_THRASH = "reload_thrash"
    ALIASES = "aliases"
    SWAP_SLOW = "swap_slow"
    ZRAM = "zram"
    ZFS_ARC = "zfs_arc"
    OVERCOMMIT = "overcommit"
    THP = "thp"
    PSI = "psi"
    LITELLM = "litellm"


@dataclass(frozen=True, slots=True)
class About:
    """What a check finds, why that hurts, what mends it; ``severity`` in words, since a few have both."""

    severity: str
    finds: str
    why: str
    mend: str


SERIOUS, ADVICE = "serious", "advice"
_FROM_SWAP = (
    "`MemorySwapMax=0` in the unit's drop-in; for a container `mem_limit:` and `memswap_limit:`. `swapoff`"
    " only for a process that is in no cgroup."
)

ABOUT: Mapping[Check, About] = {
    Check.CONFIG: About(
        SERIOUS,
        "The guard's configuration file is wrong; each problem is one finding.",
        "At its next start the guard would run the last good file, and without one not at all.",
        "Edit the line that is named, then `ollama-guard check-config && systemctl reload ollama-guard`.",
    ),
    Check.UNREADABLE: About(
        SERIOUS,
        "The guard's own user can't read its configuration file.",
        "As above: the guard would run the last good file, or not at all.",
        "`chown root:ollama-guard FILE && chmod 640 FILE`",
    ),
    Check.GUARD: About(
        SERIOUS,
        "No guard runs, or its public status file is older than 60 s.",
        "Nobody frees memory before it is short: only the kernel's OOM killer is left.",
        "`systemctl enable --now ollama-guard`",
    ),
    Check.AUTHORITY: About(
        SERIOUS,
        "The guard would have recovered a frozen server, and may not.",
        "A frozen server stays frozen until a person comes.",
        '`authority = "server"` under `[ollama]` in the guard\'s configuration.',
    ),
    Check.RIGHTS: About(
        SERIOUS,
        "The running guard may not signal Ollama's runners (no CAP_KILL), or may act on a container and can't"
        " reach Docker's socket, or on a unit and polkit forbids it.",
        "What only a kill can end (a load, a runner that hangs), or only Docker or systemd can, goes on.",
        "`AmbientCapabilities=CAP_KILL` in the guard's unit; for Docker `SupplementaryGroups=docker`; for a"
        " unit the guard's polkit rule, with its name.",
    ),
    Check.MEMLOCK: About(
        ADVICE,
        "The running guard can't lock its memory.",
        "A page fault can hold it up for seconds just when it has to act.",
        "`LimitMEMLOCK=infinity` in the guard's unit.",
    ),
    Check.GROUPS: About(
        ADVICE,
        "The groups of the guard's sockets are missing, or a socket belongs to another group.",
        "Whoever is in the group can't read the status, or act, though that is what the group is for.",
        "`systemd-sysusers ollama-guard.conf && systemd-tmpfiles --create ollama-guard.conf`",
    ),
    Check.TWO_SERVERS: About(
        SERIOUS,
        "Two or more `ollama serve` run here.",
        "Each loads its own copy of a model and knows nothing of the other's memory.",
        "The command that stops one of them.",
    ),
    Check.ORPHANS: About(
        SERIOUS,
        "A model's process whose server is gone.",
        "It keeps its memory for ever: no server knows it, `ollama ps` does not show it.",
        "`kill PID`",
    ),
    Check.EXPOSED: About(
        SERIOUS,
        "Every address of the machine reaches Ollama, by `OLLAMA_HOST` or by a container's published port.",
        "Ollama knows no passwords: whoever reaches it can fill memory, delete models, and pull others.",
        "`OLLAMA_HOST=127.0.0.1:11434`; in a compose file `127.0.0.1:11434:11434` instead of the old line"
        " under `ports:`. Clients elsewhere and in containers lose it: for them docker0's address, or a"
        " firewall.",
    ),
    Check.OOM_POLICY: About(
        SERIOUS,
        "A unit without `OOMPolicy=continue` (cgroup v2: on v1 systemd does not watch for such kills).",
        "When the kernel kills one model's process, systemd stops the whole service.",
        "`OOMPolicy=continue` in the unit's drop-in.",
    ),
    Check.NO_LIMIT: About(
        SERIOUS,
        "A container without a memory limit, where there is one that leaves the others enough.",
        "On a CPU Ollama tests no memory before it loads: it takes what the machine and its neighbours need.",
        "`mem_limit:` and `memswap_limit:` in the compose file, or `docker update`, with the size that fits.",
    ),
    Check.LIMIT: About(
        SERIOUS,
        "A memory limit larger than the machine's memory.",
        "It never holds: the machine is out of memory first.",
        "`mem_limit:` or `MemoryMax=` with a size that leaves the others their share.",
    ),
    Check.TIER_LIMIT: About(
        SERIOUS,
        "A memory limit into which the largest of your `[[tiers]]` can't fit.",
        "Each request for that tier ends in a load that is aborted, or killed by the kernel.",
        "`mem_limit:` or `MemoryMax=` as it takes; where the machine can't give that, the `[[tiers]]` table"
        " to take out.",
    ),
    Check.UNSEEN_LIMIT: About(
        "serious before Ollama 0.30, else advice",
        "A memory limit that Ollama can't see (a unit's, or one of cgroup v1), and settings that let it load"
        " more than fits below it.",
        "Ollama reckons with the whole machine's memory, and the kernel kills its models at the limit.",
        "`OLLAMA_MAX_LOADED_MODELS=` with the number that fits.",
    ),
    Check.MEMORY_HIGH: About(
        SERIOUS,
        "`memory.high` is set above Ollama on a kernel before 5.9.",
        "Such kernels throttle without an end: Ollama stands still and can't even answer.",
        "`MemoryHigh=infinity` in the unit's drop-in.",
    ),
    Check.SWAP_UNBOUNDED: About(
        SERIOUS,
        "A memory limit beside which all swap, or as much of it as memory (Docker's default), may be taken.",
        "At its limit Ollama spills models into swap: every answer waits for the disk.",
        "`MemorySwapMax=0` in the unit's drop-in; `memswap_limit:` as large as `mem_limit:`.",
    ),
    Check.SWAP_ACCOUNTING: About(
        SERIOUS,
        "A memory limit on a kernel that does not count swap.",
        "As above, and nothing can bound it.",
        "`swapaccount=1` on the kernel's command line.",
    ),
    Check.MAX_LOADED: About(
        SERIOUS,
        "`OLLAMA_MAX_LOADED_MODELS` is unset (that is 3) on a machine without GPU where the largest models"
        " don't fit together, with Ollama 0.30 or later.",
        "Since 0.30 Ollama loads the second and the third without any test of memory.",
        "`OLLAMA_MAX_LOADED_MODELS=` with the number that fits.",
    ),
    Check.PROMPT_CACHE: About(
        SERIOUS,
        "The prompt cache is not bounded, with Ollama 0.30 or later.",
        "Each model may take 8 GiB beside its weights; `ollama ps` does not show it.",
        "`LLAMA_ARG_CACHE_RAM=` with a 32nd of the memory, in MiB.",
    ),
    Check.PARALLEL: About(
        "serious where a model no longer fits because of it, else advice",
        "`OLLAMA_NUM_PARALLEL` times the context takes a quarter or more of what there is for models.",
        "Each slot is a KV cache of its own for the whole context, taken when the model is loaded.",
        "`OLLAMA_NUM_PARALLEL=1`, and where that is not enough a shorter `OLLAMA_CONTEXT_LENGTH=`.",
    ),
    Check.MAX_QUEUE: About(
        "serious for 0, else advice",
        "`OLLAMA_MAX_QUEUE` is 0, or less than 8.",
        "With 0 the scheduler locks itself up; with few, a handful of clients already gets errors (503).",
        "`OLLAMA_MAX_QUEUE=64`",
    ),
    Check.KEEP_ALIVE: About(
        ADVICE,
        "`OLLAMA_KEEP_ALIVE` is negative.",
        "A model that was asked for once stays loaded for ever.",
        "`OLLAMA_KEEP_ALIVE=5m`",
    ),
    Check.KEEP_ALIVE_GARBAGE: About(
        ADVICE,
        "`OLLAMA_KEEP_ALIVE` is nothing that Ollama can read, such as `1d` or `forever`.",
        "Ollama takes 5 minutes instead and says nothing.",
        "`OLLAMA_KEEP_ALIVE=5m`",
    ),
    Check.MAX_VRAM: About(
        ADVICE,
        "`OLLAMA_MAX_VRAM` is set.",
        "Ollama has not read it since 0.2.8: a bound that is not there.",
        "Take it out.",
    ),
    Check.ENVIRONMENT_DRIFT: About(
        ADVICE,
        "The compose file or the unit says another value than the running process has.",
        "What was written is not in force: a bound that is believed and not there.",
        "The restart that takes it over.",
    ),
    Check.NEVER_FITS: About(
        SERIOUS,
        "An installed model that can't fit, even alone with one slot and a short context.",
        "Whoever asks for it fills the memory until something is killed, each time anew.",
        "`ollama-guard quarantine add MODEL` (`restore` brings it back); without a guard `ollama rm MODEL`.",
    ),
    Check.RUNNER_MEMORY: About(
        SERIOUS,
        "A runner takes far more than `ollama ps` says and its prompt cache may have.",
        "Whoever plans by `ollama ps` plans with memory that is gone; only an unload gives it back.",
        "`ollama stop MODEL`",
    ),
    Check.RELOAD_THRASH: About(
        ADVICE,
        "One model was loaded again and again, with two contexts in turn within ten minutes.",
        "Clients with another `num_ctx` each make Ollama load the whole model anew at each switch.",
        "`OLLAMA_CONTEXT_LENGTH=` with the larger one, and no `num_ctx` in the clients.",
    ),
    Check.ALIASES: About(
        ADVICE,
        "Two names have the same weights (one blob): copies, or variants with another system prompt.",
        "They share one process: unloading, hiding or limiting one does so to the other, and another"
        " `num_ctx` loads it anew.",
        "`ollama show --modelfile NAME` shows what each adds. If that is meant nothing, but the same"
        " `num_ctx` for all.",
    ),
    Check.SWAP_SLOW: About(
        ADVICE,
        "Swap on a rotating disk or an SD card, which Ollama may use.",
        "A model that is swapped out comes back at a few MB/s: the machine looks frozen for minutes.",
        _FROM_SWAP,
    ),
    Check.ZRAM: About(
        ADVICE,
        "Swap in memory (zram), which Ollama may use.",
        "Quantized weights hardly compress: swapping a model frees next to nothing and costs CPU.",
        _FROM_SWAP,
    ),
    Check.ZFS_ARC: About(
        ADVICE,
        "ZFS' cache (ARC) may grow beyond a quarter of the memory.",
        "It shrinks only slowly, and the kernel does not count it as available: loads meet a full machine.",
        "`options zfs zfs_arc_max=` with an eighth of the memory, in /etc/modprobe.d/zfs.conf, then"
        " `update-initramfs -u`.",
    ),
    Check.OVERCOMMIT: About(
        "serious for 2, else advice",
        "`vm.overcommit_memory` is 2 or 1.",
        "With 2 loads fail though memory is free; with 1 one that can't fit is killed instead of refused.",
        "`vm.overcommit_memory = 0` where it is set now, else in /etc/sysctl.d/90-ollama.conf. Redis asks"
        " for 1: then leave that.",
    ),
    Check.THP: About(
        ADVICE,
        "Transparent huge pages are `always` on, and `defrag` is `always`, too.",
        "When memory is short, each first touch of a page may wait until memory is compacted.",
        "`madvise` into /sys/kernel/mm/transparent_hugepage/defrag.",
    ),
    Check.PSI: About(
        ADVICE,
        "The kernel shows no pressure (/proc/pressure/memory), though it is 4.20 or later.",
        "A machine that thrashes can look as if it had memory left, and nothing wakes the guard.",
        "`psi=1` on the kernel's command line.",
    ),
    Check.LITELLM: About(
        ADVICE,
        "A LiteLLM proxy that runs here was started with a configuration of which it ignores keys.",
        "A bound or a fallback that is written and not read is not in force, and LiteLLM says nothing of it.",
        "`ollama-guard litellm check FILE` until it has nothing to say, then start LiteLLM anew.",
    ),
}
