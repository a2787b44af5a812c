"""Installed on a whole machine that is thrown away afterwards: from the sources, and by dpkg."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from beds import BedUnavailable
from beds.sources import ROOT, copy_of_the_sources, wheels_of_this_environment
from beds.throwaway import ThrowAwayRoot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a root to throw away")

PROGRAM = "/opt/ollama-guard/bin/ollama-guard"
CONFIG = "etc/ollama-guard/ollama-guard.toml"
SHIPPED = (ROOT / "config/ollama-guard.toml").read_text(encoding="utf-8")
# A Python that is no Python, first on root's path as pyenv's may be.
NO_PYTHON = "#!/bin/sh\nexit 3\n"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources in which no index is asked: the wheels are made of this environment."""
    folder = tmp_path_factory.mktemp("sources")
    copy_of_the_sources(folder)
    wheels_of_this_environment(folder / "ready")
    made = '#!/bin/sh\nmkdir -p "$1"\ncp "$(dirname "$0")"/../ready/*.whl "$1"\n'
    (folder / "packaging/make-wheels").write_text(made, encoding="utf-8")
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[ThrowAwayRoot]:
    try:
        with ThrowAwayRoot(tmp_path / "layers") as machine:
            (machine.path / "usr/local/sbin/python3").write_text(NO_PYTHON, encoding="utf-8")
            (machine.path / "usr/local/sbin/python3").chmod(0o755)
            yield machine
    except BedUnavailable as problem:
        pytest.skip(str(problem))


PATH = {"PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}


def done(machine: ThrowAwayRoot, *argv: str | Path, umask: int = 0o022) -> str:
    """Run something that has to succeed; returns all that it said."""
    result = machine.run(*argv, umask=umask, environment=PATH)
    assert result.returncode == 0, (argv, result.stdout, result.stderr)
    return result.stdout + result.stderr


def traces(machine: ThrowAwayRoot) -> list[str]:
    """What is called after the guard."""
    found = done(
        machine, "find", "/etc", "/opt", "/usr", "/run", "/var/lib", "-xdev", "-iname", "*ollama*guard*",
        "-not", "-path", "/var/lib/dpkg/*",
    )  # fmt: skip
    return sorted(found.split())


def test_from_the_sources_it_comes_runs_as_its_user_and_goes(machine: ThrowAwayRoot, sources: Path) -> None:
    """As root with a careful umask, which must not lock the guard's own user out."""
    packaging = sources / "packaging"
    done(machine, "sh", packaging / "make-venv", sources / "ready", "/opt/ollama-guard", umask=0o077)
    done(machine, "sh", packaging / "files", "install", "", "/usr/local", umask=0o077)
    told = done(machine, "sh", packaging / "activate", "/usr/local", umask=0o077)
    assert "systemctl enable --now ollama-guard" in told
    shown = machine.run("/usr/local/bin/ollama-guard", "check-config", "--show", user="ollama-guard")
    assert shown.returncode == 0, shown.stderr
    assert os.access(machine.path / "usr/share/ollama-guard/ollama-guard-entrypoint", os.X_OK)
    planted = machine.path / "var/lib/ollama-guard/typer.py"
    planted.write_text("raise SystemExit(99)\n", encoding="utf-8")
    lured = machine.run(PROGRAM, "check-config", environment={"PYTHONPATH": "/var/lib/ollama-guard"})
    assert lured.returncode == 0, "nobody's module comes before its own"

    env = machine.path / "var/lib/ollama-guard/env/ollama.env"
    env.write_text("OLLAMA_MAX_LOADED_MODELS=1\n", encoding="utf-8")
    told = done(machine, "sh", packaging / "leave")
    assert "no longer constrained by OLLAMA_MAX_LOADED_MODELS=1" in told
    done(machine, "sh", packaging / "files", "remove", "", "/usr/local")
    done(machine, "rm", "-r", "/opt/ollama-guard")
    assert "left are /etc/ollama-guard" in done(machine, "sh", packaging / "left", "remove")
    assert (machine.path / CONFIG).read_text(encoding="utf-8") == SHIPPED
    done(machine, "sh", packaging / "left", "purge")
    assert traces(machine) == []
    assert machine.run("getent", "passwd", "ollama-guard").returncode != 0


def test_after_the_distributions_next_python_it_says_so_and_what_stays_is_said(
    machine: ThrowAwayRoot, sources: Path
) -> None:
    done(machine, "sh", sources / "packaging/make-venv", sources / "ready", "/opt/ollama-guard")
    program = machine.path / PROGRAM[1:]
    major, minor = done(machine, "/usr/bin/python3", "-c", VERSION).split()
    text = program.read_text(encoding="utf-8")
    for spelled, old in (
        (f"({major}, {minor})", "(3, 4)"),
        (f"for Python {major}.{minor}", "for Python 3.4"),
    ):
        assert spelled in text
        text = text.replace(spelled, old)
    program.write_text(text, encoding="utf-8")
    result = machine.run(PROGRAM, "run")
    assert result.returncode == 78, "it does not mend itself, so its unit leaves it down"
    assert result.stderr.startswith("ollama-guard: made for Python 3.4, and this is Python 3.")
    assert result.stderr.endswith(": as root, `make install` in its sources makes it anew\n")

    state, etc = machine.path / "var/lib/ollama-guard", machine.path / "etc/ollama-guard"
    (state / "env").mkdir(parents=True)
    etc.mkdir()
    assert "can't run" not in done(machine, "sh", sources / "packaging/leave"), "nothing stays"
    (state / "env/ollama.env").write_text("# the guard's\nOLLAMA_MAX_LOADED_MODELS=1\n", encoding="utf-8")
    (state / "limits.json").write_text('{\n "systemd:ollama.service:0-1": {\n  "MemoryMax": 5\n }\n}\n')
    (state / "stopped.json").write_text('{\n "ollama.service": "0-1"\n}\n')
    done(machine, "/usr/bin/python3", "-c", RECORD)
    hidden = "usr/share/ollama/.ollama/models/manifests/quarantine.registry.ollama.ai/library/big"
    (machine.path / hidden).mkdir(parents=True)
    (machine.path / hidden / "7b").write_text("{}")
    told = done(machine, "sh", sources / "packaging/leave").splitlines()
    back = f"/{hidden}".replace("quarantine.", "")
    assert [line.strip() for line in told if line.startswith("  ")] == [
        "rm /etc/systemd/system/ollama.service.d/ollama-guard.conf",
        "mv /srv/compose.yml.before-ollama-guard-1 /srv/compose.yml",
        "rm /var/lib/ollama-guard/env/ollama.env",
        "systemctl set-property --runtime ollama.service MemoryMax=infinity CPUQuota=",
        "systemctl start ollama.service",
        f"mkdir -p {back} && mv -n /{hidden}/7b {back}/7b",
    ]


VERSION = "import sys; print(*sys.version_info[:2])"
RECORD = """
import json
entries = [
    {"path": "/etc/ollama-guard/ollama-guard.toml", "written": "x", "copy": "", "basis": ""},
    {"path": "/etc/systemd/system/ollama.service.d/ollama-guard.conf", "written": '"path": "n"', "copy": ""},
    {"path": "/srv/compose.yml", "written": "x", "copy": "/srv/compose.yml.before-ollama-guard-1"},
]
with open("/etc/ollama-guard/written-by-init.json", "w") as file:
    json.dump({"version": 1, "entries": entries, "folders": [], "environment": {}}, file, indent=1)
"""


@pytest.fixture(scope="module")
def deb(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, made by its own script."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("there is no dpkg here")
    out = tmp_path_factory.mktemp("deb")
    quickly = os.environ | {"DPKG_DEB_COMPRESSOR_LEVEL": "0"}
    subprocess.run(["sh", sources / "packaging/debian/build", out], check=True, timeout=300, env=quickly)
    (built,) = out.glob("*.deb")
    return built


def as_it_was(deb: Path, folder: Path) -> Path:
    """The same package with its configuration as dpkg's own file, as it was once, and an older version."""
    subprocess.run(["dpkg-deb", "-R", deb, folder], check=True, timeout=120)
    shipped = folder / CONFIG
    shipped.parent.mkdir(parents=True)
    shipped.write_text("# as it was shipped once\n", encoding="utf-8")
    (folder / "DEBIAN/conffiles").write_text(f"/{CONFIG}\n", encoding="utf-8")
    # Its program is never run.
    (folder / "usr/share/ollama-guard/make-venv").write_text("mkdir -p /opt/ollama-guard\n")
    shutil.rmtree(folder / "usr/share/ollama-guard/wheels")
    control = folder / "DEBIAN/control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 0~"), encoding="utf-8")
    older = folder.with_suffix(".deb")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", folder, older], check=True, timeout=120)
    return older


@pytest.mark.parametrize("mine", ["# mine\n", "# as it was shipped once\n"])
def test_an_upgrade_asks_nothing_and_the_owners_file_stays(
    machine: ThrowAwayRoot, deb: Path, tmp_path: Path, mine: str
) -> None:
    """From a package in which it was dpkg's own file, edited or not."""
    done(machine, "dpkg", "-i", as_it_was(deb, tmp_path / "older"))
    config = machine.path / CONFIG
    config.write_text(mine, encoding="utf-8")
    assert "onfiguration file" not in done(machine, "dpkg", "-i", deb)
    assert config.read_text(encoding="utf-8") == mine
    shown = machine.run("ollama-guard", "check-config", user="ollama-guard")
    assert shown.returncode == 0, shown.stderr
    done(machine, "dpkg", "-r", "ollama-guard")
    assert config.read_text(encoding="utf-8") == mine
    done(machine, "dpkg", "-P", "ollama-guard")
    assert traces(machine) == []


def test_a_file_that_the_owner_took_away_is_not_put_back_by_an_upgrade(
    machine: ThrowAwayRoot, deb: Path
) -> None:
    done(machine, "dpkg", "-i", deb)
    config = machine.path / CONFIG
    assert config.read_text(encoding="utf-8") == SHIPPED
    config.unlink()
    make_venv = machine.path / "usr/share/ollama-guard/make-venv"
    make_venv.write_text("exit 0\n", encoding="utf-8")  # no need of another environment
    postinst = "/var/lib/dpkg/info/ollama-guard.postinst"
    done(machine, "sh", postinst, "configure", "0.1.0")
    assert not config.exists()
