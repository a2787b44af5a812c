"""A models folder in another mount namespace, as in a container, is found where it is mounted from here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ollama_guard.core.model import ServerReading
from ollama_guard.hands.adapters.manifests import Manifests, Place, Wanted, locate

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes mount namespaces")


def test_a_volume_of_another_mount_namespace_is_found_on_this_side(tmp_path: Path) -> None:
    volume, inside = tmp_path / "a volume", tmp_path / "inside"
    manifest = volume / "models/manifests/registry.ollama.ai/library/big/7b"
    manifest.parent.mkdir(parents=True)
    manifest.write_text('{"layers": [], "config": {"size": 1}}')
    (inside / "models/manifests").mkdir(parents=True)  # the same path on this side is another folder
    script = f'mount --bind "{volume}" "{inside}" && echo ready && exec sleep 60'
    with subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            if server.stdout.readline() != "ready\n":
                pytest.skip("no mount namespace can be made here")
            told = ServerReading(server.pid, 1, 0, "/", "a test's")
            place = locate(Wanted(told=f"{inside}/models", servers=(told,)))
            assert place == Place(f"{volume}/models")
        finally:
            server.kill()
    Manifests(place.path).hide("big:7b")
    assert not manifest.exists()
    again = locate(Wanted(told=f"{inside}/models", remembered=place.path))
    assert again == place, "found again while nothing of it runs"
