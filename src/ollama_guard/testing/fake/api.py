"""Ollama's native API (facts 1), over the store and the scheduler."""

from __future__ import annotations

import ipaddress
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from ollama_guard.testing.fake.durations import BadDuration, parse_keep_alive
from ollama_guard.testing.fake.faults import Faults
from ollama_guard.testing.fake.generate import Generator
from ollama_guard.testing.fake.http import ApiError, Request, Response, json_response
from ollama_guard.testing.fake.scheduler import Scheduler
from ollama_guard.testing.fake.spec import Settings, shape
from ollama_guard.testing.fake.store import Manifest, Store, name_parts

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_Route = Callable[[Request], Awaitable[Response]]


class Api:
    """Routes and their answers; ``loopback`` turns Ollama's Host check on (facts 1.1)."""

    def __init__(
        self, store: Store, scheduler: Scheduler, settings: Settings, faults: Faults, *, loopback: bool
    ) -> None:
        self._store, self._scheduler, self._settings, self._faults = store, scheduler, settings, faults
        self._loopback = loopback
        self.generator = Generator(scheduler)
        self._routes: dict[str, dict[str, _Route]] = {
            "/": {"GET": self._root, "HEAD": self._root},
            "/api/version": {"GET": self._version, "HEAD": self._version},
            "/api/tags": {"GET": self._tags, "HEAD": self._tags},
            "/api/ps": {"GET": self._ps},
            "/api/show": {"POST": self._show},
            "/api/generate": {"POST": self._generate},
            "/api/chat": {"POST": self._chat},
            "/api/embed": {"POST": self._embed},
            "/api/copy": {"POST": self._copy},
            "/api/delete": {"DELETE": self._delete},
        }

    async def handle(self, request: Request) -> Response:
        """One request, with the faults in force and its line in the log (facts 7)."""
        started = time.monotonic()
        status = 499
        try:
            response = await self._faults.before(request) or await self._dispatch(request)
            status = response.status
        except ApiError as error:
            status = error.status
            raise
        finally:
            _log(request, status, time.monotonic() - started)
        return replace(response, drip=True) if self._faults.drips(request) else response

    async def _dispatch(self, request: Request) -> Response:
        if self._loopback and not _host_allowed(request.headers.get("host", "")):
            return Response(403)
        route = self._routes.get(request.path)
        if route is None:
            return Response(404, b"404 page not found", "text/plain")
        if request.method not in route:
            return Response(405, b"405 method not allowed", "text/plain")
        return await route[request.method](request)

    async def _root(self, request: Request) -> Response:  # noqa: ARG002 - all routes look alike
        return Response(200, b"Ollama is running", "text/plain; charset=utf-8")

    async def _version(self, request: Request) -> Response:  # noqa: ARG002 - all routes look alike
        return json_response({"version": self._settings.version})

    async def _tags(self, request: Request) -> Response:  # noqa: ARG002 - all routes look alike
        return json_response({"models": [_tag(manifest) for manifest in self._store.manifests()]})

    async def _ps(self, request: Request) -> Response:  # noqa: ARG002 - all routes look alike
        if not self._settings.new:
            return self._listing()
        async with self._scheduler.lock:
            for runner in self._scheduler.loaded.values():
                async with runner.lock:
                    pass  # as Ollama, which reads each runner under its lock (facts 1.3)
            return self._listing()

    def _listing(self) -> Response:
        listed = sorted(self._scheduler.loaded.values(), key=lambda r: r.shown_expiry(), reverse=True)
        models = []
        for runner in listed:
            entry = {"name": runner.manifest.name, "model": runner.manifest.name, "size": runner.size_bytes}
            entry |= {"digest": runner.manifest.digest, "details": _details(runner.manifest)}
            entry |= {"expires_at": _local_time(runner.shown_expiry()), "size_vram": 0}
            if self._settings.new:
                entry["context_length"] = runner.options.context
            models.append(entry)
        return json_response({"models": models})

    async def _show(self, request: Request) -> Response:
        sent = request.json()
        manifest = self._existing(str(sent.get("model") or sent.get("name") or ""), required=True)
        answer: dict[str, Any] = {"details": _details(manifest)}
        answer["modified_at"] = _local_time(manifest.modified)
        if manifest.remote:
            return json_response(answer | manifest.config)
        model = self._store.model(manifest.blob)
        sizes = shape(model)
        answer["modelfile"] = (
            f'# Modelfile generated by "ollama show"\nFROM {self._store.blob_path(manifest.blob)}\n'
        )
        answer["parameters"] = "\n".join(f"{key:<30} {value}" for key, value in manifest.params.items())
        answer["template"] = "{{ .Prompt }}"
        answer["model_info"] = {
            "general.architecture": "llama",
            "general.file_type": 1,
            "general.parameter_count": model.size_bytes // 2,
            "llama.attention.head_count": sizes.head_count,
            "llama.attention.head_count_kv": sizes.head_count_kv,
            "llama.block_count": sizes.block_count,
            "llama.context_length": model.context,
            "llama.embedding_length": sizes.embedding_length,
        }
        answer["capabilities"] = list(model.capabilities)
        return json_response(answer)

    async def _generate(self, request: Request) -> Response:
        sent = request.json()
        keep_alive = _keep_alive(sent)
        manifest = self._existing(str(sent.get("model") or ""))
        if manifest.remote:
            return self.generator.outbound()
        if not sent.get("prompt") and keep_alive == 0:
            await self._scheduler.expire(manifest.blob)
            return json_response(self.generator.empty(sent, "unload", chat=False))
        self._must_complete(sent, manifest, "generate")
        return await self.generator.answer(sent, manifest, keep_alive, chat=False)

    async def _chat(self, request: Request) -> Response:
        sent = request.json()
        keep_alive = _keep_alive(sent)
        manifest = self._existing(str(sent.get("model") or ""), required=True)
        if not sent.get("messages") and keep_alive == 0:
            await self._scheduler.expire(manifest.blob)
            return json_response(self.generator.empty(sent, "unload", chat=True))
        if manifest.remote:
            return self.generator.outbound()
        self._must_complete(sent, manifest, "chat")
        return await self.generator.answer(sent, manifest, keep_alive, chat=True)

    def _must_complete(self, sent: dict[str, Any], manifest: Manifest, verb: str) -> None:
        if "completion" not in self._store.model(manifest.blob).capabilities:
            raise ApiError(400, f'"{sent["model"]}" does not support {verb}')

    async def _embed(self, request: Request) -> Response:
        sent = request.json()
        keep_alive = _keep_alive(sent)
        name = str(sent.get("model") or "")
        manifest = self._store.find(name)
        if manifest is None:
            raise ApiError(404, f'model "{name}" not found, try pulling it first')
        return await self.generator.embed(sent, manifest, keep_alive)

    async def _copy(self, request: Request) -> Response:
        sent = request.json()
        source, destination = str(sent.get("source") or ""), str(sent.get("destination") or "")
        if name_parts(source) is None:
            raise ApiError(400, f'source "{source}" is invalid')
        parts = name_parts(destination)
        if parts is None:
            raise ApiError(400, f'destination "{destination}" is invalid')
        manifest = self._store.find(source)
        if manifest is None:
            raise ApiError(404, f'model "{source}" not found')
        self._store.copy(manifest, parts)
        return Response(200)

    async def _delete(self, request: Request) -> Response:
        sent = request.json()
        name = str(sent.get("model") or sent.get("name") or "")
        if name and name_parts(name) is None:
            raise ApiError(400, f'name "{name}" is invalid')
        self._store.delete(self._existing(name, required=True))
        return Response(200)

    def _existing(self, name: str, *, required: bool = False) -> Manifest:
        """The manifest of a name, or Ollama's 400 or 404."""
        if not name and required:
            raise ApiError(400, "model is required")
        if name and name_parts(name) is None:
            raise ApiError(400, "invalid model name")
        manifest = self._store.find(name)
        if manifest is None:
            raise ApiError(404, f"model '{name}' not found")
        return manifest


def _keep_alive(sent: dict[str, Any]) -> float | None:
    try:
        return parse_keep_alive(sent.get("keep_alive"))
    except BadDuration as error:
        raise ApiError(400, str(error)) from error


def _tag(manifest: Manifest) -> dict[str, Any]:
    remote: dict[str, Any] = {
        key: manifest.config[key] for key in ("remote_host", "remote_model") if key in manifest.config
    }
    return {
        "name": manifest.name,
        "model": manifest.name,
        "modified_at": _local_time(manifest.modified),
        "size": manifest.size_bytes,
        "digest": manifest.digest,
        "details": _details(manifest),
        **remote,
    }


def _details(manifest: Manifest) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": manifest.config.get("model_format", ""),
        "family": manifest.config.get("model_family", ""),
        "families": manifest.config.get("model_families"),
        "parameter_size": manifest.config.get("model_type", ""),
        "quantization_level": manifest.config.get("file_type", ""),
    }


def _local_time(seconds: float) -> str:
    """RFC 3339 with nanoseconds in the server's own zone (facts 1.3)."""
    local = datetime.fromtimestamp(seconds, UTC).astimezone()
    zone = local.isoformat()[-6:]
    return f"{local:%Y-%m-%dT%H:%M:%S.%f}001{'Z' if zone == '+00:00' else zone}"


def _host_allowed(header: str) -> bool:
    host = header.rpartition(":")[0] if ":" in header and not header.endswith("]") else header
    host = host.strip("[]").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in {"", "localhost", socket.gethostname().lower()} or host.endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_unspecified


def _log(request: Request, status: int, seconds: float) -> None:
    stamp = f"{datetime.now().astimezone():%Y/%m/%d - %H:%M:%S}"
    took = f"{seconds * 1000:.4f}ms"
    line = f"[GIN] {stamp} | {status} | {took:>12} |       127.0.0.1 | {request.method:<8} {request.path!r}"
    sys.stdout.write(line.replace("'", '"') + "\n")
    sys.stdout.flush()
