"""The recorder of tests/corpus: what it writes is what the sensors read."""

import os
from pathlib import Path

from beds.record import main
from ollama_guard.sentinel.sensors.host import parse_meminfo
from ollama_guard.sentinel.sensors.processes import parse_status, read_stat


def test_a_process_is_recorded_with_its_host_and_without_what_is_left_out(tmp_path: Path) -> None:
    main(["--replace", "MemTotal=MemSeen", "--leave-out", " / / ", str(tmp_path), str(os.getpid())])
    stat = read_stat(str(tmp_path / "proc"), os.getpid())
    assert stat is not None
    assert (stat.pid, stat.parent) == (os.getpid(), os.getppid())
    status = parse_status((tmp_path / f"proc/{os.getpid()}/status").read_bytes())
    assert (status.anon_bytes or 0) > 1024**2
    meminfo = (tmp_path / "proc/meminfo").read_bytes()
    assert parse_meminfo(meminfo.replace(b"MemSeen", b"MemTotal")).reason == ""
    assert parse_meminfo(meminfo).reason == "MemTotal is missing or absurd"
    mounts = (tmp_path / "proc/self/mountinfo").read_text()
    assert " /proc " in mounts
    assert " / / " not in mounts
