"""Another user's eyes: a child process of a test that is nobody."""

import os

NOBODY = 65534


def become_nobody() -> None:
    """Give up root for good: for a child process only."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
