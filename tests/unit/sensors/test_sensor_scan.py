"""Scans of all processes: what is read again, and what is not."""

from ollama_guard.sentinel.sensors.scan import Scan
from unit.sensors.sensor_tree import Tree


def test_kernel_threads_are_read_once_and_programs_at_every_scan(tree: Tree) -> None:
    tree.kernel_thread(30)
    tree.process(40, "bash")
    scan = Scan(str(tree.proc))
    assert [stat.pid for stat in scan.step(1.0, {1}, 10.0)] == [40]
    tree.process(30, "ollama")  # no kernel thread does that: what is seen now is not read
    tree.process(40, "ollama")
    assert [(stat.pid, stat.comm) for stat in scan.step(11.0, {1}, 10.0)] == [(40, "ollama")]
    tree.kill(30)
    scan.step(22.0, {1}, 10.0)
    tree.process(30, "ollama")  # the PID was seen to be free: it is somebody else's now
    assert {stat.pid for stat in scan.step(33.0, {1}, 10.0)} == {30, 40}


def test_a_scan_that_starts_over_reads_everything(tree: Tree) -> None:
    tree.kernel_thread(30)
    scan = Scan(str(tree.proc))
    scan.step(1.0, {1}, 10.0)
    tree.process(30, "ollama")
    scan.start_over()
    assert [stat.pid for stat in scan.step(1.1, {1}, 10.0)] == [30]
