"""What a command line says: an Ollama server, a runner of either dialect, or neither. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_BLOB = re.compile(r"(?P<models>/.*)/blobs/sha256[-:](?P<hex>[0-9a-f]{64})\Z", re.DOTALL)
_SERVER_VERBS = frozenset({"serve", "start"})
# What may stand beside "ollama" in the name of a server's file: versions, machines, what packagers add. Not
# just any name with "ollama" in it: proxies, exporters and this guard say `serve` or `start`, too.
_BESIDE = re.compile(
    r"(?:v?[0-9][0-9a-z]*|rc[0-9]*|lib|bin|real|orig|wrapped|unwrapped|server|linux|amd64|arm64|x86|aarch64|cpu"
    r"|gpu|cuda|rocm|vulkan|mlx|ipex|intel|nightly|latest)\Z"
)
_JOINTS = re.compile(r"[-_.+]")
# What Ollama always says to its llama-server and people don't all say together (facts sheet 4.1).
_OLLAMAS_OWN = frozenset({"--port", "--host", "--no-webui", "--offline", "-c", "-np"})
_UNMAPPED_MODES = frozenset({"none", "dio"})
_LONGEST_TYPE = 16  # characters
_NUMBER = re.compile(r"[0-9]{1,18}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class ServerArgv:
    """``ollama serve``; ``words`` is what proves it."""

    words: str


@dataclass(frozen=True, slots=True)
class RunnerArgv:
    """A runner's command line.

    ``blob`` is ``sha256:<hex>`` where ``model`` is a path into ``<models_dir>/blobs``, else None.
    ``context_tokens`` is the total over all slots. ``signature``: nobody but Ollama starts it like this.
    ``weights_mapped``: the weights are page cache, which the kernel takes back by itself (facts sheet 3.2).
    ``cache_type`` is how the KV cache is kept, such as ``q8_0``; "" is Ollama's own, f16.
    """

    model: str
    blob: str | None
    models_dir: str
    context_tokens: int | None
    parallel: int | None
    port: int | None
    signature: bool
    weights_mapped: bool
    cache_type: str = ""


def parse_argv(argv: Sequence[str]) -> ServerArgv | RunnerArgv | None:
    """Tell what a command line is; None for anything but a server or a runner (GPU discovery, say)."""
    if not argv:
        return None
    name = argv[0].rsplit("/", 1)[-1].lower()
    verb = argv[1] if len(argv) > 1 else ""
    if verb in _SERVER_VERBS and _is_servers(name):
        return ServerArgv(f"{argv[0]} {verb}")
    # Whose child it is proves the rest, so here any name that holds theirs will do.
    own = "ollama" in name
    if own and verb == "runner":
        return _runner(argv[2:], signature=True)
    if "llama-server" in name or name == "ollama_llama_server":
        options = argv[1:]
        return _runner(options, signature=own or set(options) >= _OLLAMAS_OWN)
    return None


def _is_servers(name: str) -> bool:
    """Whether a file of this name, in lower case, is a server's, as far as its name goes."""
    words = [word for word in _JOINTS.split(name) if word]
    return words[:1] == ["ollama"] and all(_BESIDE.match(word) for word in words[1:])


def split_cmdline(data: bytes) -> tuple[str, ...]:
    """/proc/PID/cmdline as words; bytes that are not UTF-8 are escaped, never refused."""
    text = data.removesuffix(b"\0").decode("utf-8", "backslashreplace")
    return tuple(text.split("\0")) if text else ()


def _runner(options: Sequence[str], *, signature: bool) -> RunnerArgv | None:
    model = _option(options, "--model", "-m")
    if not model:
        return None
    found = _BLOB.match(model)
    return RunnerArgv(
        model=model,
        blob=f"sha256:{found['hex']}" if found else None,
        models_dir=found["models"] if found else "",
        context_tokens=_number(_option(options, "-c", "--ctx-size")),
        parallel=_number(_option(options, "-np", "--parallel")),
        port=_number(_option(options, "--port")),
        signature=signature,
        weights_mapped=_option(options, "--load-mode") not in _UNMAPPED_MODES and "--no-mmap" not in options,
        cache_type=(_option(options, "--cache-type-k", "--kv-cache-type") or "")[:_LONGEST_TYPE],
    )


def _option(options: Sequence[str], *names: str) -> str | None:
    """The value of the last of these options, written ``--x value`` or ``--x=value``."""
    value = None
    for i, word in enumerate(options):
        head, equals, tail = word.partition("=")
        if word in names and i + 1 < len(options):
            value = options[i + 1]
        elif equals and head in names:
            value = tail
    return value


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _NUMBER.match(text) else None
