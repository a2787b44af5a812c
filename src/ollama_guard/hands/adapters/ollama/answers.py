"""Ollama's answers as plain JSON, judged: every value is type-checked, nothing is taken on trust.

Pure functions; whatever the JSON holds, they return a value or raise `OllamaError`. An entry without
the one thing that it is needed for (its name) is a bad answer; a lesser field of the wrong type is None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ollama_guard.core.model import LoadedModel
from ollama_guard.errors import OllamaError

# The largest number of bytes or tokens that is believed; the wire and the sums stay within 64 bits.
_LARGEST = 2**62
# Characters; Ollama's own limit is 350 + 3 x 80 (facts 5.1).
_LONGEST_NAME = 1000
# The weights' line of a modelfile; the first one is the model, later ones are projectors.
_FROM = re.compile(r"^FROM (?P<dir>/.*)/blobs/sha256[-:](?P<hex>[0-9a-f]{64})\s*$", re.MULTILINE)
# RFC 3339 as Go writes it: up to nine decimals, Z or an offset.
_TIME = re.compile(
    r"(?P<second>\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(?P<part>\d{1,12}))?(?P<zone>[Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)
# Bytes per element of the f16 cache, and the two caches (keys and values), facts 3.4.
_F16_BYTES = 2
# One layer in so many looks back at all tokens, the others at a window of a thousand or so (llama.cpp,
# `set_swa_pattern` of each architecture).
_FULL_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2, "gptoss": 2, "llama4": 4}


@dataclass(frozen=True, slots=True)
class Tag:
    """One entry of ``/api/tags``; ``digest`` is the manifest's, ``size_bytes`` the sum of all layers."""

    name: str
    digest: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Shown:
    """What ``/api/show`` says of one manifest: its weights and the shape of its cache."""

    blob: str
    models_dir: str
    kv_bytes_per_token: int | None
    training_context: int | None
    embeds: bool = False

    @property
    def path(self) -> str:
        """The weights' file, as the server's own file system names it."""
        return f"{self.models_dir}/blobs/{self.blob.replace(':', '-')}"


def version_of(answer: Any) -> str:
    """The server's version from ``/api/version``."""
    version = answer.get("version") if isinstance(answer, dict) else None
    if not isinstance(version, str) or not 0 < len(version) <= 100:
        raise OllamaError("bad_answer", "GET /api/version: the answer holds no version")
    return version


def is_old_dialect(version: str) -> bool:
    """Whether this version runs models in its own processes (before 0.30, facts 0); unknown counts as new."""
    numbers = re.match(r"v?(\d{1,6})\.(\d{1,6})", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < (0, 30)


def tags_of(answer: Any) -> tuple[tuple[Tag, ...], frozenset[str]]:
    """Local models of ``/api/tags``, and the names of cloud stubs, which run elsewhere (facts 1.2)."""
    local, remote = [], set()
    for entry in _entries(answer, "GET /api/tags"):
        name = _name(entry, "GET /api/tags")
        if entry.get("remote_host") or entry.get("remote_model"):
            remote.add(name)
            continue
        digest = entry.get("digest")
        if not isinstance(digest, str) or not digest:
            raise OllamaError("bad_answer", "GET /api/tags: an entry has no digest")
        local.append(Tag(name, digest, _count(entry.get("size"))))
    return tuple(local), frozenset(remote)


def loaded_of(
    answer: Any, by_digest: dict[str, str], by_name: dict[str, str], wall: float
) -> tuple[LoadedModel, ...]:
    """``/api/ps``, each entry with its blob where digest or name is known; ``wall`` is epoch seconds."""
    loaded = []
    for entry in _entries(answer, "GET /api/ps"):
        name = _name(entry, "GET /api/ps")
        digest = entry.get("digest")
        blob = by_digest.get(digest) if isinstance(digest, str) else None
        loaded.append(
            LoadedModel(
                name=name,
                blob=blob or by_name.get(name),
                size_bytes=_count(entry.get("size")),
                vram_bytes=_count(entry.get("size_vram")),
                expires_in_seconds=_seconds_until(entry.get("expires_at"), wall),
                context_tokens=_count(entry.get("context_length")),
            )
        )
    return tuple(loaded)


def shown_of(answer: Any) -> Shown | None:
    """``/api/show`` of one model; None when its weights are not one local blob (an MLX model, a stub)."""
    if not isinstance(answer, dict):
        raise OllamaError("bad_answer", "POST /api/show: the answer is not an object")
    modelfile = answer.get("modelfile")
    found = _FROM.search(modelfile) if isinstance(modelfile, str) else None
    if found is None or answer.get("remote_host") or answer.get("remote_model"):
        return None
    info = answer.get("model_info")
    info = info if isinstance(info, dict) else {}
    architecture = info.get("general.architecture")
    return Shown(
        blob=f"sha256:{found['hex']}",
        models_dir=found["dir"],
        kv_bytes_per_token=_kv_bytes_per_token(info, architecture),
        training_context=_positive(info.get(f"{architecture}.context_length")),
        embeds=_embeds(answer.get("capabilities")),
    )


def _embeds(capabilities: Any) -> bool:
    """Whether it can embed and not answer; old versions don't tell."""
    return isinstance(capabilities, list) and "embedding" in capabilities and "completion" not in capabilities


def done_reason_of(answer: Any) -> str:
    """``done_reason`` of an unload's answer."""
    reason = answer.get("done_reason") if isinstance(answer, dict) else None
    if not isinstance(reason, str):
        raise OllamaError("bad_answer", "POST /api/generate: the answer holds no done_reason")
    return reason


def done_of(answer: Any) -> None:
    """An answer that came to its end, whatever it says."""
    if not isinstance(answer, dict) or answer.get("done") is not True:
        raise OllamaError("bad_answer", "POST /api/generate: the answer did not come to its end")


def embeddings_of(answer: Any) -> None:
    """An answer that holds at least one embedding."""
    found = answer.get("embeddings") if isinstance(answer, dict) else None
    if not isinstance(found, list) or not found:
        raise OllamaError("bad_answer", "POST /api/embed: the answer holds no embedding")


def modelfile_of(answer: Any) -> str:
    """The Modelfile from ``/api/show``."""
    modelfile = answer.get("modelfile") if isinstance(answer, dict) else None
    if not isinstance(modelfile, str) or not modelfile:
        raise OllamaError("bad_answer", "POST /api/show: the answer holds no modelfile")
    return modelfile


def _kv_bytes_per_token(info: dict[str, Any], architecture: Any) -> int | None:
    """Full layers x kv_heads x (key + value length) x 2 (facts 3.4): what each further token adds for sure.

    Layers of 0 heads have no cache, and those that look back a window only, no more than the window's.
    """
    attention = f"{architecture}.attention"
    blocks = _positive(info.get(f"{architecture}.block_count"))
    width = _positive(info.get(f"{architecture}.embedding_length"))
    heads, kv_heads = (
        _heads(info.get(f"{attention}.head_count")),
        _heads(info.get(f"{attention}.head_count_kv")),
    )
    if blocks is None or width is None or not heads or not kv_heads:
        return None
    listed = isinstance(info.get(f"{attention}.head_count_kv"), list)
    all_heads = sum(kv_heads[:blocks]) if listed else blocks * kv_heads[0]
    head_width = width // max(heads)
    key = _positive(info.get(f"{attention}.key_length")) or head_width
    value = _positive(info.get(f"{attention}.value_length")) or head_width
    every = _FULL_EVERY.get(str(architecture), 1)
    if _positive(info.get(f"{attention}.sliding_window")) is None:
        every = 1
    return min(max(1, all_heads // every) * (key + value) * _F16_BYTES, _LARGEST)


def _heads(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [heads for heads in map(_positive, values) if heads is not None]


def _entries(answer: Any, where: str) -> list[dict[str, Any]]:
    models = answer.get("models") if isinstance(answer, dict) else None
    if models is None and isinstance(answer, dict) and "models" in answer:
        return []
    if not isinstance(models, list) or not all(isinstance(entry, dict) for entry in models):
        raise OllamaError("bad_answer", f"{where}: the answer holds no list of models")
    return models


def _name(entry: dict[str, Any], where: str) -> str:
    name = entry.get("name") or entry.get("model")
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        raise OllamaError("bad_answer", f"{where}: an entry has no name")
    return name


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _LARGEST else None


def _positive(value: Any) -> int | None:
    return _count(value) or None


def _seconds_until(value: Any, wall: float) -> float | None:
    """Seconds from ``wall`` to an RFC 3339 time, negative for the past; None if it is none."""
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    zone = "+00:00" if found["zone"] in "Zz" else found["zone"]
    try:
        second = datetime.fromisoformat(found["second"].upper() + zone)
        whole = (second - datetime.fromtimestamp(0, UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
    return whole + float(f"0.{found['part'] or 0}") - wall
