"""The configuration file that `init` proposes: what differs from the defaults, and why; else comments."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Mapping, Sequence

from ollama_guard.core.advice import Advice
from ollama_guard.core.machine import Machine
from ollama_guard.core.model import Level
from ollama_guard.core.naming import is_local
from ollama_guard.core.policy import MIB, Authority, Policy, Thresholds
from ollama_guard.core.sizing import Fits, Tier
from ollama_guard.core.tiers import EXAMPLE
from ollama_guard.core.units import bytes_text

_WIDTH = 108
_FITS = {
    Fits.TOGETHER: "fits, with every smaller one beside it",
    Fits.ALONE: "fits, but not with every smaller one beside it",
    Fits.TIGHT: "fits only below the soft threshold: unloaded whenever it is idle",
    Fits.NEVER: "can never fit",
}


def proposed_toml(
    machine: Machine, policy: Policy, advice: Advice, kept: Mapping[str, Sequence[str]] | None = None
) -> str:
    """The whole file. ``policy`` is in force, ``kept`` are the lines of it that its owner wrote, by table."""
    tables = {name: list(lines) for name, lines in (kept or {}).items()}
    ollama = tables.pop("ollama", [])
    blocks = [
        _comment(
            "The configuration of ollama-guard as `ollama-guard init` advises it for this machine. What is"
            " not here"
            " has its default: `ollama-guard check-config --show` prints everything that is in force, and"
            " `man ollama-guard.toml` explains it."
        ),
        _ollama(machine, policy, ollama),
        _thresholds(machine, policy, advice, tables),
        _cap(policy, advice, tables),
        *([_models(policy, advice)] if advice.tiers else []),
        *([ladder] if (ladder := _ladder(policy, advice)) else []),
        *(
            [*_comment("From the file that was here before."), f"[{name}]", *lines]
            for name, lines in tables.items()
        ),
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _ollama(machine: Machine, policy: Policy, kept: list[str]) -> list[str]:
    lines = ["[ollama]"]
    if machine.url and machine.url != policy.ollama.url:
        lines += [*_comment("Where it answers here."), f"url = {json.dumps(machine.url)}"]
        kept = [line for line in kept if not line.startswith("url =")]
    if len(machine.servers) > 1 and not (policy.ollama.cgroup or policy.ollama.user_id is not None):
        lines += _comment(f"{len(machine.servers)} servers run here, and all of them are guarded. One alone:")
        lines += [
            f"#cgroup = {json.dumps(server.cgroup, ensure_ascii=False)}"
            for server in machine.servers
            if server.cgroup
        ]
    if policy.ollama.authority is not Authority.SERVER:
        title = machine.server.title if machine.server else "the server"
        lines += _comment(
            f"Without the # the guard may also stop, constrain and restart {title} when it is frozen, and"
            " hide models"
            " that can't fit (nothing is deleted). Until then it unloads models and kills single model"
            " processes,"
            " and says what else it would have done."
        )
        lines.append('#authority = "server"')
    return [*lines, *kept]


def _thresholds(machine: Machine, policy: Policy, advice: Advice, taken: Collection[str]) -> list[str]:
    """The sizes that the thresholds come to here, and why they are only offered: they suit every machine."""
    sizes = _sizes(policy.host, machine.total_bytes)
    told = ", ".join(f"{level.word} below {bytes_text(size)}" for level, size in sizes.items())
    text = f"The thresholds suit as they are. Of the machine's {bytes_text(machine.total_bytes)}: {told}"
    offered = _offered("thresholds.host", sizes, taken)
    if advice.capacity_bytes < machine.total_bytes:
        inside = _sizes(policy.container, advice.capacity_bytes)
        listed = ", ".join(bytes_text(size) for size in inside.values())
        text += f"; within Ollama's limit of {bytes_text(advice.capacity_bytes)} {listed}"
        offered += _offered("thresholds.container", inside, taken)
    text += f". That leaves {bytes_text(advice.room_bytes)} for models."
    more = ' The same as lines, for you to change without the #; a share such as "20%" goes too.'
    return [*_comment(text + more if offered else text), *offered]


def _sizes(thresholds: Thresholds, capacity_bytes: int) -> dict[Level, int]:
    levels = (Level.SOFT, Level.HARD, Level.CRITICAL)
    return {level: thresholds.bytes_of(level, capacity_bytes) for level in levels}


def _offered(table: str, sizes: Mapping[Level, int], taken: Collection[str]) -> list[str]:
    """A table of thresholds behind marks; nothing where its owner wrote one."""
    if table in taken:
        return []
    lines = [f'#{level.word} = "{round(size / MIB)}MiB"' for level, size in sizes.items()]
    return [f"#[{table}]", *lines]


def _cap(policy: Policy, advice: Advice, taken: Collection[str]) -> list[str]:
    if policy.cap.soft_max is not None or not advice.tiers:
        return _comment("How many models stay loaded: [cap] soft_max, without which it is as many as fit.")
    whole = sum(tier.needs_bytes for tier in advice.tiers if tier.fits is not Fits.NEVER)
    text = (
        "No [cap] soft_max: as many models stay loaded as fit. All of yours that can fit would take"
        f" {bytes_text(whole)} together."
    )
    together = sum(1 for tier in advice.tiers if tier.fits is Fits.TOGETHER)
    if not together or "cap" in taken:
        return _comment(text)
    many = "the smallest fits" if together == 1 else f"the {together} smallest fit together"
    return [*_comment(f"{text} A bound, if you want one: {many}."), "#[cap]", f"#soft_max = {together}"]


def _models(policy: Policy, advice: Advice) -> list[str]:
    lines = _comment(f"Your models, small to large, each with {advice.context_tokens} tokens of context:")
    width = max(len(tier.model.name) for tier in advice.tiers)
    lines += [
        f"#   {tier.model.name:<{width}}  {bytes_text(tier.needs_bytes):>8}  {_FITS[tier.fits]}"
        for tier in advice.tiers
    ]
    smallest = _smallest(policy, advice.tiers)
    if smallest is not None:
        lines += _comment(
            f"Without the # the smallest goes last: it costs {bytes_text(smallest.needs_bytes)} to keep,"
            " and answers"
            " when nothing else fits."
        )
        lines += [f"#[models.{json.dumps(smallest.model.name, ensure_ascii=False)}]", '#preference = "avoid"']
    return lines


def _smallest(policy: Policy, tiers: Sequence[Tier]) -> Tier | None:
    if len(tiers) < 2 or policy.models or tiers[0].fits is not Fits.TOGETHER:
        return None
    return tiers[0]


def _ladder(policy: Policy, advice: Advice) -> list[str]:
    """A ladder of the models that can answer and fit, behind marks; nothing where its owner wrote one."""
    able = [
        tier
        for tier in advice.tiers
        if tier.fits is not Fits.NEVER and not tier.model.embeds and is_local(tier.model.name)
    ]
    if policy.tiers or len(able) < 2:
        return []
    lines = _comment(
        "Without the # a ladder of them, for programs that take the largest that may be used now"
        " (`ollama-guard tiers`). What each is good for is only an example: it is yours to say."
    )
    for example, tier in zip(EXAMPLE, _spread(able, len(EXAMPLE)), strict=False):
        lines += [
            "#[[tiers]]",
            f"#name = {json.dumps(example.name)}",
            f"#model = {json.dumps(tier.model.name, ensure_ascii=False)}",
            f"#for = {json.dumps(example.purpose)}",
            f'#disk = "{max(1, round(tier.model.size_bytes / MIB))}MiB"',
            f'#memory = "{max(1, round(tier.needs_bytes / MIB))}MiB"',
        ]
    return lines


def _spread(tiers: Sequence[Tier], most: int) -> list[Tier]:
    """So many of them at most, the smallest and the largest among them."""
    if len(tiers) <= most:
        return list(tiers)
    return [tiers[round(place * (len(tiers) - 1) / (most - 1))] for place in range(most)]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )
