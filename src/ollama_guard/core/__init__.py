"""The brain: pure functions over frozen values.

Belongs here: what a reading means, what to do about it, and one sentence why.
Must not: I/O, clocks, randomness, logging, threads, third-party packages. Time is a field of
the snapshot (CLOCK_BOOTTIME seconds); a decision that needs a new fact gets a new field there.
"""
