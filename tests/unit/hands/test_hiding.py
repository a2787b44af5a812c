"""Hiding three names by renaming, then the unload, with a fault or a death at each: no name is lost."""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ollama_guard.core.model import Action, ActionKind, LoadedModel, Rung
from ollama_guard.core.quarantine import Goal
from ollama_guard.errors import OllamaError, StoreFailed
from ollama_guard.hands import api_moves
from ollama_guard.hands.adapters.manifests import Manifests, renaming
from ollama_guard.hands.api_moves import Limits
from ollama_guard.hands.hiding import Hider, Seen

BLOB = "sha256:" + "ab" * 32
NAMES = ("big:7b", "big:latest", "hf.co/Me/Big:Q4")
PLACES = ("registry.ollama.ai/library/big/7b", "registry.ollama.ai/library/big/latest", "hf.co/Me/Big/Q4")
HIDDEN = {f"quarantine.{place}" for place in PLACES}
LIMITS = Limits(deadline_at=1000.0, call_seconds=1.0)
REAL = renaming._LIBC


class Died(BaseException):
    """Hands were killed at this moment; nothing of the guard's catches it."""


class Kernel:
    """The C library whose rename goes wrong at chosen calls: "fault", "before" or "after" for a death."""

    def __init__(self, plan: dict[int, str]) -> None:
        self.plan = plan
        self.calls = 0

    def renameat2(self, *arguments: Any) -> int:
        """The real one, unless it is this call's turn."""
        word = self.plan.get(self.calls, "")
        self.calls += 1
        if word == "before":
            raise Died
        if word == "fault":
            ctypes.set_errno(errno.EIO)
            return -1
        done: int = REAL.renameat2(*arguments)
        if word == "after":
            raise Died
        return done


@dataclass
class Ollama:
    """An `OllamaPort` on the same folder: it lists what is there, and unloads what it is asked to."""

    models: Path
    up: bool = True
    held: bool = True
    unloaded: list[str] = field(default_factory=list)

    def digests(self, deadline_seconds: float) -> dict[str, str]:
        """The names in the folder."""
        del deadline_seconds
        self._answers()
        return {manifest.name.shown: manifest.digest for manifest in Manifests(str(self.models)).all()}

    def unload(self, model: str, deadline_seconds: float) -> str:
        """It goes at once, by any name that there is."""
        if model not in self.digests(deadline_seconds):
            raise OllamaError("not_found", f"model '{model}' not found")
        self.unloaded.append(model)
        self.held = False
        return "unload"

    def loaded(self, deadline_seconds: float) -> tuple[LoadedModel, ...]:
        """The one model, until it was unloaded."""
        del deadline_seconds
        self._answers()
        return (LoadedModel("big:7b", BLOB, 1000, 0, 300.0),) if self.held else ()

    def _answers(self) -> None:
        if not self.up:
            raise OllamaError("refused", "nobody listens")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """A copy or a delete by the API would be a race that renaming has no need of."""
        raise AssertionError(name)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """This Ollama unloads at once."""
    monkeypatch.setattr(api_moves, "_FIRST_LOOK_SECONDS", 0.0)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A store with three names of one blob."""
    return store_in(tmp_path)


def store_in(folder: Path) -> Path:
    models = folder / "models"
    (models / "blobs").mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": BLOB, "size": 1000}
    for place in PLACES:
        file = models / "manifests" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"config": {"digest": "sha256:c", "size": 3}, "layers": [layer]}))
    return models


def hide(models: Path, ollama: Ollama) -> str:
    """One try of one life of hands."""
    action = Action(1, ActionKind.QUARANTINE, Rung.PLAYBOOK, 1000.0, blob=BLOB, model=NAMES[0], names=NAMES)
    hider = Hider(models.parent / "state", lambda: 5.0)
    return hider.hide(action, ollama, Seen(configured=str(models)), LIMITS, Goal.HIDE)


def files(models: Path) -> set[str]:
    top = models / "manifests"
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


def test_undisturbed_all_three_are_renamed_and_then_the_runner_goes_by_a_hidden_name(models: Path) -> None:
    ollama = Ollama(models)
    assert "by renaming" in hide(models, ollama)
    assert files(models) == HIDDEN
    assert not ollama.held
    assert all(name.startswith("quarantine.") for name in ollama.unloaded)


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("at", range(3))
def test_a_rename_that_fails_keeps_none_of_the_others_and_is_told_by_its_name(
    models: Path, monkeypatch: pytest.MonkeyPatch, at: int, *, up: bool
) -> None:
    ollama = Ollama(models, up=up)
    monkeypatch.setattr(renaming, "_LIBC", Kernel({at: "fault"}))
    with pytest.raises(StoreFailed, match="Input/output error") as caught:
        hide(models, ollama)
    assert NAMES[at] in str(caught.value)
    assert files(models) == (HIDDEN - {f"quarantine.{PLACES[at]}"}) | {PLACES[at]}
    assert "by renaming" in hide(models, ollama)
    assert files(models) == HIDDEN
    assert ollama.held is not up


@pytest.mark.parametrize("words", [*itertools.product(["fault", "before", "after"], repeat=2)])
def test_any_two_faults_or_deaths_at_renames_lose_no_name_and_a_repeat_hides_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str]
) -> None:
    """Six renames are the most that two disturbed lives and a whole one can make."""
    for at in itertools.combinations_with_replacement(range(6), 2):
        folder = tmp_path / f"{at[0]}-{at[1]}"
        folder.mkdir()
        models = store_in(folder)
        ollama = Ollama(models)
        monkeypatch.setattr(renaming, "_LIBC", Kernel(dict(zip(at, words, strict=True))))
        for _ in range(4):
            try:
                hide(models, ollama)
                break
            except (Died, StoreFailed):
                assert len(files(models)) == 3, at
        assert files(models) == HIDDEN, at
        assert not ollama.held, at
