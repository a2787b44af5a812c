"""What the fake is told about its models, and the sizes that follow from it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace

MIB = 1024 * 1024
_SUFFIXES = {"": 1, "k": 1024, "kib": 1024, "m": MIB, "mib": MIB, "g": 1024 * MIB, "gib": 1024 * MIB}
_HEAD_SIZE = 64  # elements per attention head, as in most small llama models
_KV_UNIT = 2 * 2 * _HEAD_SIZE  # bytes per token, layer and KV head: K and V, two bytes each (facts 3.4)
_MOST_LAYERS = 48  # more would not look like a model of this size


@dataclass(frozen=True, slots=True)
class FakeModel:
    """One model blob with its names and its behaviour.

    Sizes in bytes; ``load_seconds`` (0: by rate) and ``rate_mib`` (MiB/s) say how fast the runner takes
    its memory; ``kv_bytes_per_token`` is rounded up to a multiple of 256; ``context`` is the training
    context; ``tokens_per_second`` and ``cpu_share`` (of one core) describe an answer; ``cache_bytes`` is
    what the prompt cache grows by with each answer; ``num_ctx`` is pinned by the Modelfile (0: not).
    """

    name: str
    size_bytes: int
    aliases: tuple[str, ...] = ()
    load_seconds: float = 0.0
    rate_mib: float = 1024.0
    kv_bytes_per_token: int = 2048
    context: int = 32768
    tokens_per_second: float = 20.0
    cpu_share: float = 0.5
    cache_bytes: int = 0
    num_ctx: int = 0
    capabilities: tuple[str, ...] = ("completion",)

    @property
    def digest(self) -> str:
        """The blob's digest in hex; derived from the name, since hashing sparse gigabytes takes long."""
        return hashlib.sha256(f"{self.name} {self.size_bytes}".encode()).hexdigest()

    def seconds_to_load(self, memory_bytes: int) -> float:
        """How long taking ``memory_bytes`` lasts."""
        return self.load_seconds or memory_bytes / (self.rate_mib * MIB)


@dataclass(frozen=True, slots=True)
class Shape:
    """GGUF keys from which facts 3.4 computes the same KV size per token."""

    block_count: int
    head_count: int
    head_count_kv: int
    embedding_length: int

    @property
    def kv_bytes_per_token(self) -> int:
        """2 x layers x KV heads x head size x 2 bytes."""
        return 2 * self.block_count * self.head_count_kv * (self.embedding_length // self.head_count) * 2


def shape(model: FakeModel) -> Shape:
    """The smallest llama-like shape whose KV cache takes the model's bytes per token (rounded up)."""
    units = max(1, -(-model.kv_bytes_per_token // _KV_UNIT))
    layers = max(n for n in range(1, min(units, _MOST_LAYERS) + 1) if units % n == 0)
    kv_heads = units // layers
    heads = kv_heads * max(1, 8 // kv_heads)
    return Shape(layers, heads, kv_heads, heads * _HEAD_SIZE)


@dataclass(frozen=True, slots=True)
class Settings:
    """How one fake server behaves; the names follow Ollama's environment (facts 2.5)."""

    models: tuple[FakeModel, ...]
    remotes: tuple[str, ...] = ()
    dialect: str = "new"
    version: str = "0.33.0"
    max_loaded: int = 3
    parallel: int = 1
    max_queue: int = 512
    context: int = 4096
    keep_alive_seconds: float = 300.0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def new(self) -> bool:
        """Whether this is the dialect since v0.30."""
        return self.dialect == "new"


def parse_size(text: str) -> int:
    """``20MiB``, ``1.5G``, ``4096`` as bytes; ValueError on anything else."""
    match = re.fullmatch(r"([0-9.]+)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"{text!r} is not a size such as 20MiB or 1.5GiB")
    return int(float(match[1]) * _SUFFIXES[match[2]])


def parse_model(text: str) -> FakeModel:
    """``NAME=SIZE[,alias=NAME2][,load=SECONDS][,rate=MiB/s][,kv=BYTES][,ctx=N][,tps=N][,cpu=SHARE]…``.

    Further keys: ``cache=SIZE``, ``num_ctx=N``, ``kind=embedding``. Raises ValueError with a sentence.
    """
    head, *options = text.split(",")
    name, separator, size = head.rpartition("=")
    if not separator or not name:
        raise ValueError(f"{text!r} is not NAME=SIZE[,key=value]…")
    model = FakeModel(name=full_name(name), size_bytes=parse_size(size))
    for option in options:
        model = _with_option(model, *option.partition("=")[::2])
    return model


def _with_option(model: FakeModel, key: str, value: str) -> FakeModel:
    match key:
        case "alias":
            return replace(model, aliases=(*model.aliases, full_name(value)))
        case "load":
            return replace(model, load_seconds=float(value))
        case "rate":
            return replace(model, rate_mib=float(value))
        case "kv":
            return replace(model, kv_bytes_per_token=parse_size(value))
        case "ctx":
            return replace(model, context=int(value))
        case "tps":
            return replace(model, tokens_per_second=float(value))
        case "cpu":
            return replace(model, cpu_share=float(value))
        case "cache":
            return replace(model, cache_bytes=parse_size(value))
        case "num_ctx":
            return replace(model, num_ctx=int(value))
        case "kind" if value == "embedding":
            return replace(model, capabilities=("embedding",))
    raise ValueError(
        f"{key}={value}: unknown key; allowed: alias load rate kv ctx tps cpu cache num_ctx kind=embedding"
    )


def full_name(name: str) -> str:
    """A model's name with its tag; ``latest`` where none is given (facts 5.1)."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
