"""What the sentinel reads by itself, from local kernel files alone.

Belongs here: kept-open readers of /proc and the cgroup trees, pure parsers of what they hold, the proof of
whose a process is, and `Sensors`, which makes one `Snapshot` of it all. Must not: anything that can wait
for another process (its command line is read by the disposable `witness`; smaps and environ by nobody),
and any judgement of what a reading means, which belongs in `core`.
"""

from ollama_guard.sentinel.sensors.sense import Fact, Sensors

__all__ = ["Fact", "Sensors"]
