"""Which colour is whose in the show's bars."""

from __future__ import annotations

from ollama_guard.demo.stage import CHAT, CODER, GIANT, NEIGHBOUR

SHADES = {
    CHAT: "green",
    CODER: "blue",
    NEIGHBOUR: "yellow",
    GIANT: "magenta",
    "rest": "bright_black",
    "without": "red",
}


def part_of(name: str, held_bytes: int) -> tuple[int, str]:
    """One actor's part of a bar: bytes and colour."""
    return held_bytes, SHADES.get(name, SHADES["rest"])
