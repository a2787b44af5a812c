"""A guard whose clocks can jump: usage `faketime.py OFFSETS guard RUNTIME_DIR STATE_DIR POLICY`.

`faketime.py OFFSETS MODULE ARGUMENTS…` is how it starts its `hands`. OFFSETS is a file of two doubles:
seconds to add to the wall clock, and to CLOCK_BOOTTIME. Whoever changes it changes the time of all of them.
"""

import json
import mmap
import runpy
import struct
import sys
import time
from pathlib import Path

_DOUBLES = struct.Struct("=dd")


def _jump(path: str) -> None:
    with Path(path).open("rb") as file:
        offsets = mmap.mmap(file.fileno(), _DOUBLES.size, prot=mmap.PROT_READ)
    real_time, real_gettime = time.time, time.clock_gettime

    def shifted(clock: int) -> float:
        return real_gettime(clock) + (_DOUBLES.unpack(offsets)[1] if clock == time.CLOCK_BOOTTIME else 0.0)

    time.time = lambda: real_time() + _DOUBLES.unpack(offsets)[0]
    time.clock_gettime = shifted


def _guard(offsets: str, runtime_dir: str, state_dir: str, policy: str) -> None:
    """The real sentinel, whose hands live in the same time."""
    from ollama_guard.core.codec import from_plain  # noqa: PLC0415 - only with shifted clocks
    from ollama_guard.core.policy import Policy  # noqa: PLC0415 - as above
    from ollama_guard.sentinel.__main__ import guard  # noqa: PLC0415 - as above
    from ollama_guard.sentinel.outfit import Setup  # noqa: PLC0415 - as above

    hands = (sys.executable, str(Path(__file__).absolute()), offsets, "ollama_guard.hands")
    given: Policy = from_plain(Policy, json.loads(Path(policy).read_text()))
    guard(Setup(given, "", Path(runtime_dir), state_dir, hands_argv=hands))


def main() -> None:
    """Shift the clocks, then become the module."""
    offsets, module, *arguments = sys.argv[1:]
    _jump(offsets)
    if module == "guard":
        _guard(offsets, *arguments)
        return
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
