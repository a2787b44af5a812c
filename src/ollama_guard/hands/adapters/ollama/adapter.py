"""`OllamaPort` over HTTP, and the catalogue that joins names to blobs."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ollama_guard.core import naming
from ollama_guard.core.events import one_line
from ollama_guard.core.model import CatalogueEntry, LoadedModel
from ollama_guard.errors import OllamaError
from ollama_guard.hands.adapters.ollama import answers
from ollama_guard.hands.adapters.ollama.http import exchange

# Calls of /api/show in one pass; each is a line in the owner's log and reads the model's header.
SHOW_LIMIT = 32
# What a model that can't answer, only embed, says to a generate (facts 1.8's style; both dialects).
_ONLY_EMBEDS = "does not support generate"


@dataclass(frozen=True, slots=True)
class _Names:
    """What the last catalogue taught: manifest digest and name to blob, and who runs elsewhere."""

    by_digest: dict[str, str]
    by_name: dict[str, str]
    remote: frozenset[str]


class OllamaAdapter:
    """One Ollama server at ``url``.

    Calls may come from several threads. ``catalogue_complete`` is False while models are left whose
    weights have not been asked for yet: ask again soon.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.catalogue_complete = False
        self._shown: dict[str, answers.Shown | None] = {}
        self._names = _Names({}, {}, frozenset())
        self._learning = threading.Lock()

    @property
    def remote(self) -> frozenset[str]:
        """The names of cloud stubs, as the last catalogue listed them."""
        return self._names.remote

    def version(self, deadline_seconds: float) -> str:
        """The server's version, such as ``0.33.0``."""
        return answers.version_of(exchange(self.url, "GET", "/api/version", deadline_seconds))

    def loaded(self, deadline_seconds: float) -> tuple[LoadedModel, ...]:
        """``/api/ps``, each entry with its blob where the catalogue knows it.

        Times count from when it was sent, as its caller does: a slow answer moves no model's end.
        """
        sent_wall = time.time()
        answer = exchange(self.url, "GET", "/api/ps", deadline_seconds)
        names = self._names
        return answers.loaded_of(answer, names.by_digest, names.by_name, sent_wall)

    def catalogue(self, deadline_seconds: float) -> tuple[CatalogueEntry, ...]:
        """Every installed local model, grouped by blob; cloud stubs are skipped (facts 1.5).

        A manifest never seen before costs one ``/api/show``, at most `SHOW_LIMIT` of them in a pass
        and within the deadline; the rest follows in the next passes.
        """
        deadline = time.monotonic() + deadline_seconds
        if not self._learning.acquire(timeout=deadline_seconds):
            raise OllamaError("timeout", "another look at the installed models is under way")
        try:
            return self._catalogue(deadline)
        finally:
            self._learning.release()

    def _catalogue(self, deadline: float) -> tuple[CatalogueEntry, ...]:
        left = max(0.0, deadline - time.monotonic())
        tags, remote = answers.tags_of(exchange(self.url, "GET", "/api/tags", left))
        digests = {tag.digest: tag.name for tag in tags}
        self._shown = {digest: shown for digest, shown in self._shown.items() if digest in digests}
        self._learn({d: n for d, n in digests.items() if d not in self._shown}, deadline)
        blobs = {digest: shown.blob for digest, shown in self._shown.items() if shown is not None}
        self._names = _Names(
            by_digest=blobs,
            by_name={tag.name: blobs[tag.digest] for tag in tags if tag.digest in blobs},
            remote=remote,
        )
        return self._grouped(tags)

    def unload(self, model: str, deadline_seconds: float) -> str:
        """Ask for the unload of a model (keep_alive 0); returns ``done_reason``. Never loads.

        A cloud model is refused here: Ollama would pass the call on to its remote host (facts 1.5).
        """
        self._refuse_cloud(model, "unload")
        body = {"model": model, "keep_alive": 0, "stream": False}
        return answers.done_reason_of(exchange(self.url, "POST", "/api/generate", deadline_seconds, body))

    def copy(self, source: str, destination: str, deadline_seconds: float) -> None:
        """Make a second name of a model (facts 1.7). The caller has made sure that it doesn't exist."""
        self._refuse_cloud(source, "copy")
        body = {"source": _explicit(source), "destination": _explicit(destination)}
        exchange(self.url, "POST", "/api/copy", deadline_seconds, body, silent=True)

    def delete(self, model: str, deadline_seconds: float) -> None:
        """Take a name away; blobs that no other name has go with it (facts 1.7)."""
        self._refuse_cloud(model, "delete")
        # Both keys, as with show below.
        body = {"model": _explicit(model), "name": _explicit(model)}
        exchange(self.url, "DELETE", "/api/delete", deadline_seconds, body, silent=True)

    def digests(self, deadline_seconds: float) -> dict[str, str]:
        """Every local name of ``/api/tags`` with its manifest's digest; cloud stubs are skipped."""
        tags, _ = answers.tags_of(exchange(self.url, "GET", "/api/tags", deadline_seconds))
        return {tag.name: tag.digest for tag in tags}

    def modelfile(self, model: str, deadline_seconds: float) -> str:
        """The text from which the model could be created again, as ``/api/show`` tells it."""
        self._refuse_cloud(model, "show")
        body = {"model": _explicit(model), "name": _explicit(model)}
        return answers.modelfile_of(exchange(self.url, "POST", "/api/show", deadline_seconds, body))

    def generate(self, model: str, deadline_seconds: float) -> None:
        """Load a model and have it answer one token: the proof that the server serves. Never pulls.

        A model that can only embed is loaded and proven by embedding two letters.
        """
        self._refuse_cloud(model, "generate")
        deadline = time.monotonic() + deadline_seconds
        name = _explicit(model)
        body = {"model": name, "prompt": "Hi", "stream": False, "options": {"num_predict": 1}}
        try:
            answers.done_of(exchange(self.url, "POST", "/api/generate", deadline_seconds, body))
        except OllamaError as problem:
            if problem.kind != "http_error" or _ONLY_EMBEDS not in str(problem):
                raise
            left = max(0.0, deadline - time.monotonic())
            asked = {"model": name, "input": "Hi"}
            answers.embeddings_of(exchange(self.url, "POST", "/api/embed", left, asked))

    def _refuse_cloud(self, model: str, verb: str) -> None:
        if model in self._names.remote or naming.is_cloud(model):
            raise OllamaError(
                "not_found", f"{one_line(model, 200)!r} runs in the cloud: nothing here to {verb}"
            )

    def _learn(self, unknown: dict[str, str], deadline: float) -> None:
        self.catalogue_complete = len(unknown) <= SHOW_LIMIT
        for digest, name in list(unknown.items())[:SHOW_LIMIT]:
            left = deadline - time.monotonic()
            if left <= 0:
                self.catalogue_complete = False
                return
            try:
                # Both keys: the first since 0.2, the second before.
                answer = exchange(self.url, "POST", "/api/show", left, {"model": name, "name": name})
                self._shown[digest] = answers.shown_of(answer)
            except OllamaError as problem:
                if problem.kind == "timeout":
                    self.catalogue_complete = False
                    return
                # One broken or just deleted model must not hide the others; it is asked for again
                # in the next regular pass.

    def _grouped(self, tags: tuple[answers.Tag, ...]) -> tuple[CatalogueEntry, ...]:
        entries: dict[str, CatalogueEntry] = {}
        for tag in sorted(tags, key=lambda tag: tag.name):
            shown = self._shown.get(tag.digest)
            if shown is None:
                continue
            known = entries.get(shown.blob)
            if known is not None:
                entries[shown.blob] = replace(known, names=(*known.names, tag.name))
                continue
            entries[shown.blob] = CatalogueEntry(
                blob=shown.blob,
                names=(tag.name,),
                size_bytes=_file_size(shown.path) or tag.size_bytes,
                kv_bytes_per_token=shown.kv_bytes_per_token,
                training_context=shown.training_context,
                models_dir=shown.models_dir,
                embeds=shown.embeds,
            )
        return tuple(entries[blob] for blob in sorted(entries))


def _explicit(model: str) -> str:
    """The name with its tag: what is left out would be ``latest``, which is said here, not guessed there."""
    name = naming.parse(model)
    return model if name is None else name.shown


def _file_size(path: str) -> int | None:
    """Bytes of the weights where this process may look; the server's file system may be another one."""
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return None
