"""Models on disk, laid out as Ollama's (facts 5.1): manifests and (sparse) blobs.

The manifests are read anew at every call, so what is added, copied or removed by hand is seen at
once. Blobs are sparse files of the configured size: they look right and take no disk.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollama_guard.testing.fake.spec import FakeModel, Settings, full_name

MODEL_LAYER = "application/vnd.ollama.image.model"
_SYSTEM_LAYER = "application/vnd.ollama.image.system"
_PARAMS_LAYER = "application/vnd.ollama.image.params"
_CONFIG_LAYER = "application/vnd.docker.container.image.v1+json"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_HOST = "registry.ollama.ai"
_NAMESPACE = "library"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One name: its file, its digest (hex, of the file), its model blob (hex) and its config."""

    path: Path
    parts: tuple[str, str, str, str]
    digest: str
    size_bytes: int
    modified: float
    blob: str
    config: dict[str, Any]
    params: dict[str, Any]

    @property
    def name(self) -> str:
        """As Ollama shows it: the host and the namespace only where they are not the default."""
        host, namespace, model, tag = self.parts
        prefix = (
            f"{host}/{namespace}/" if host != _HOST else "" if namespace == _NAMESPACE else f"{namespace}/"
        )
        return f"{prefix}{model}:{tag}"

    @property
    def remote(self) -> bool:
        """Whether this is a cloud stub."""
        return "remote_host" in self.config


def name_parts(name: str) -> tuple[str, str, str, str] | None:
    """Host, namespace, model and tag; None when the name is malformed (facts 5.1)."""
    *prefix, last = full_name(name).split("/")
    model, _, tag = last.rpartition(":")
    parts = [*([_HOST, _NAMESPACE][: 2 - len(prefix)] if len(prefix) < 2 else []), *prefix, model, tag]
    if len(parts) != 4 or not all(_PART.fullmatch(part) for part in parts) or "." in parts[1]:
        return None
    if any(len(part) > 80 or ":" in part for part in parts[1:]):
        return None
    return parts[0], parts[1], parts[2], parts[3]


class Store:
    """The models directory of one fake server."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root = root.absolute()
        self._models = {model.digest: model for model in settings.models}
        self._seen: dict[Path, tuple[tuple[int, int], Manifest]] = {}
        (self.root / "blobs").mkdir(parents=True, exist_ok=True)
        for model in settings.models:
            self._install(model)
        for name in settings.remotes:
            config = {"remote_host": "https://ollama.com:443", "remote_model": name.partition(":")[0]}
            self._write_manifest(full_name(name), [], config)

    def blob_path(self, blob: str) -> Path:
        """Where the blob of this hex digest lies."""
        return self.root / "blobs" / f"sha256-{blob}"

    def model(self, blob: str) -> FakeModel:
        """The behaviour of a blob; defaults for one that was put there by hand."""
        known = self._models.get(blob)
        return known or FakeModel(f"unknown:{blob[:12]}", self.blob_path(blob).stat().st_size)

    def manifests(self) -> list[Manifest]:
        """All readable ones, newest first (facts 1.2)."""
        found = [self._read(path) for path in (self.root / "manifests").glob("*/*/*/*")]
        return sorted((m for m in found if m is not None), key=lambda m: m.modified, reverse=True)

    def find(self, name: str) -> Manifest | None:
        """The manifest of a name, part by part without regard to case (facts 5.1)."""
        wanted = name_parts(name)
        if wanted is None:
            return None
        exact = self._read(self.root.joinpath("manifests", *wanted))
        folded = tuple(part.casefold() for part in wanted)
        return exact or next(
            (m for m in self.manifests() if tuple(part.casefold() for part in m.parts) == folded), None
        )

    def copy(self, source: Manifest, parts: tuple[str, str, str, str]) -> None:
        """Copy the manifest file byte for byte; an existing one is overwritten (facts 1.7)."""
        target = self.root.joinpath("manifests", *parts)
        if target == source.path:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path, target)

    def delete(self, manifest: Manifest) -> None:
        """Remove one name, empty folders, and the blobs that no other manifest needs (facts 1.7)."""
        mine = _digests(json.loads(manifest.path.read_text()))
        manifest.path.unlink()
        for folder in list(manifest.path.parents)[:3]:
            if any(folder.iterdir()):
                break
            folder.rmdir()
        needed = {d for m in self.manifests() for d in _digests(json.loads(m.path.read_text()))}
        for digest in mine - needed:
            self.blob_path(digest).unlink(missing_ok=True)

    def _install(self, model: FakeModel) -> None:
        """Once: what was moved or removed since then stays so over a restart, as with Ollama."""
        blob = self.blob_path(model.digest)
        if blob.exists():
            return
        blob.touch()
        with blob.open("r+b") as file:
            file.truncate(model.size_bytes)
        layer = {"mediaType": MODEL_LAYER, "digest": f"sha256:{model.digest}", "size": model.size_bytes}
        extra = [self._layer(_PARAMS_LAYER, {"num_ctx": model.num_ctx})] if model.num_ctx else []
        config = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"]}
        config |= {"model_type": f"{model.size_bytes // 2 / 1e6:.2f}M", "file_type": "F16"}
        self._write_manifest(model.name, [layer, *extra], config)
        for alias in model.aliases:
            system = self._layer(_SYSTEM_LAYER, f"You are {alias}.")
            self._write_manifest(alias, [layer, *extra, system], config)

    def _layer(self, kind: str, value: Any) -> dict[str, Any]:
        data = (value if isinstance(value, str) else json.dumps(value)).encode()
        digest = hashlib.sha256(data).hexdigest()
        self.blob_path(digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    def _write_manifest(self, name: str, layers: list[dict[str, Any]], config: dict[str, Any]) -> None:
        parts = name_parts(name)
        if parts is None:
            raise ValueError(f"model name {name!r} is not valid")
        document = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": self._layer(_CONFIG_LAYER, config)}
        path = self.root.joinpath("manifests", *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document | {"layers": layers}))

    def _read(self, path: Path) -> Manifest | None:
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if path in self._seen and self._seen[path][0] == stamp:
                return self._seen[path][1]
            data = path.read_bytes()
            document = json.loads(data)
            blobs = {
                layer["mediaType"]: layer["digest"].removeprefix("sha256:") for layer in document["layers"]
            }
            config = json.loads(
                self.blob_path(document["config"]["digest"].removeprefix("sha256:")).read_bytes()
            )
            params = (
                json.loads(self.blob_path(blobs[_PARAMS_LAYER]).read_bytes())
                if _PARAMS_LAYER in blobs
                else {}
            )
            size = document["config"]["size"] + sum(layer["size"] for layer in document["layers"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        host, namespace, model, tag = path.relative_to(self.root / "manifests").parts
        manifest = Manifest(
            path=path,
            parts=(host, namespace, model, tag),
            digest=hashlib.sha256(data).hexdigest(),
            size_bytes=size,
            modified=stat.st_mtime,
            blob=blobs.get(MODEL_LAYER, ""),
            config=config,
            params=params,
        )
        self._seen[path] = (stamp, manifest)
        return manifest


def _digests(document: dict[str, Any]) -> set[str]:
    return {layer["digest"].removeprefix("sha256:") for layer in (document["config"], *document["layers"])}
