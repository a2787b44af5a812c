"""The small process that senses, decides and kills: standard library and sdnotify, one thread.

Belongs here: reading local kernel files, the kill rung, the state map, the non-blocking journal and
the loop. Must not: anything that can wait (no disk, no HTTP, no locks of other processes) and any
judgement, which belongs in `core`.
"""
