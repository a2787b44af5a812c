"""Draws the samples that `benchmarks.small_host --out FILE` kept: available memory, one line per guard.

Needs the extra `plot` (matplotlib): `pip install -e .[plot]`. The SVG carries text as text, so it stays small
and reads well on a light and on a dark page.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.small_host import MEMORY, STORIES

GIB = 1 << 30
COLOURS = {"none": "#9a9a9a", "earlyoom": "#d9902f", "nohang": "#b04a9e", "ollama-guard": "#1f8a5b"}
# The legend stands above the lines.
LEGEND_ROOM = 1.4
# The upper of two lines that meet is the one that the picture is about.
STYLES = {"none": 1.2, "earlyoom": 1.2, "nohang": 1.2, "ollama-guard": 2.2}


def draw(axes: Axes, story: str, results: list[dict[str, Any]]) -> None:
    """One story: every guard's line, and where the kernel or a guard took the job."""
    for result in results:
        times, available = zip(*result["samples"], strict=True)
        ending = "" if result["job"] else ", job killed"
        label = f"{result['guard']}{ending}"
        colour, width = COLOURS[result["guard"]], STYLES[result["guard"]]
        axes.plot(times, [value / GIB for value in available], label=label, color=colour, linewidth=width)
    axes.axhline(MEMORY / 10 / GIB, color="#c0392b", linewidth=0.8, linestyle=":")
    axes.set_title(story, fontsize=10)
    axes.set_ylim(0, LEGEND_ROOM * axes.get_ylim()[1])
    axes.set_xlabel("seconds", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, loc="upper right", framealpha=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> int:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("samples", type=Path)
    parser.add_argument("picture", type=Path, help="an SVG or PNG file")
    options = parser.parse_args()
    results = json.loads(options.samples.read_text())
    stories = [story for story in STORIES if any(result["story"] == story for result in results)]
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["svg.hashsalt"] = "ollama-guard"  # the same samples give the same file
    rows = (len(stories) + 1) // 2
    figure, grid = plt.subplots(rows, 2, figsize=(9.5, 2.9 * rows), squeeze=False, layout="constrained")
    for axes, story in zip(grid.flat, stories, strict=False):
        draw(axes, story, [result for result in results if result["story"] == story])
    for axes in grid[:, 0]:
        axes.set_ylabel("GiB available", fontsize=8)
    figure.savefig(options.picture, facecolor="white", metadata={"Date": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
