"""A policy as TOML again: every key with the value that is in force. Compiling it gives the same policy."""

from __future__ import annotations

import json

from ollama_guard.core.policy import MIB, NO_CEILING_BYTES, PlaybookPolicy, Policy, Threshold, Thresholds
from ollama_guard.core.tiers import Tier
from ollama_guard.settings.units import format_bytes, format_duration, format_ratio


def effective_toml(policy: Policy) -> str:
    """The whole file, without comments; what is not set is left out."""
    blocks = [
        _ollama(policy),
        _domain("host", policy.host),
        _domain("container", policy.container),
        _policy(policy),
        _cap(policy),
        _record(policy),
        _playbook(policy.playbook),
        _quarantine(policy),
        _notify(policy),
    ]
    for name, rule in policy.models.items():
        lines = [f"preference = {_text(rule.preference)}", f"protect = {_text(rule.protect)}"]
        blocks.append(_block(f"models.{_text(name)}", lines))
    blocks += [_tier(tier) for tier in policy.tiers]
    return "\n".join(blocks)


def _ollama(policy: Policy) -> str:
    ollama = policy.ollama
    lines = [f"url = {_text(ollama.url)}", f"authority = {_text(ollama.authority)}"]
    if ollama.user_id is not None:
        lines.append(f"user = {ollama.user_id}")
    if ollama.cgroup:
        lines.append(f"cgroup = {_text(ollama.cgroup)}")
    lines += [
        f"poll = {_duration(ollama.poll_seconds)}",
        f"unresponsive_after = {_duration(ollama.unresponsive_after_seconds)}",
        f"request_timeout = {_duration(ollama.request_timeout_seconds)}",
    ]
    if ollama.runtime is not None:
        lines.append(f"runtime = {_text(ollama.runtime)}")
    named = {
        "runtime_name": ollama.runtime_name,
        "docker_host": ollama.docker_host,
        "models_folder": ollama.models_folder,
    }
    lines += [f"{key} = {_text(text)}" for key, text in named.items() if text]
    return _block("ollama", lines)


def _cap(policy: Policy) -> str:
    cap = policy.cap
    lines = [] if cap.soft_max is None else [f"soft_max = {cap.soft_max}"]
    lines.append(f"hard = {_switch(cap.hard)}")
    if cap.hard_max is not None:
        lines.append(f"hard_max = {cap.hard_max}")
    return _block("cap", lines)


def _playbook(freeze: PlaybookPolicy) -> str:
    lines = [
        f"enabled = {_switch(freeze.enabled)}",
        f"runs_per_hour = {freeze.runs_per_hour}",
        f"quiet = {_duration(freeze.quiet_seconds)}",
        f"stuck_after = {_duration(freeze.stuck_seconds)}",
        f"full_above = {_text(format_ratio(freeze.full_percent / 100))}",
        f"full_for = {_duration(freeze.full_seconds)}",
        f"young_for = {_duration(freeze.young_seconds)}",
        f"max_loaded_models = {freeze.max_loaded_models}",
        f"num_parallel = {freeze.num_parallel}",
        f"keep_alive = {_duration(freeze.keep_alive_seconds)}",
        f"max_queue = {freeze.max_queue}",
        f"cache_ram = {_text(format_bytes(freeze.cache_ram_mib * MIB))}",
        f"memory = {_text(format_bytes(freeze.memory_bytes))}",
        f"cpus = {freeze.cpus:g}",
    ]
    return _block("playbook.freeze", lines)


def _domain(name: str, thresholds: Thresholds) -> str:
    lines = [
        f"soft = {_threshold(thresholds.soft)}",
        f"hard = {_threshold(thresholds.hard)}",
        f"critical = {_threshold(thresholds.critical)}",
        f"grace = {_duration(thresholds.grace_seconds)}",
    ]
    return _block(f"thresholds.{name}", lines)


def _policy(policy: Policy) -> str:
    lines = [
        f"mode = {_text(policy.ollama.mode)}",
        f"transition = {_duration(policy.transition_seconds)}",
        f"min_reclaim = {_reclaim(policy)}",
        f"post_action_delay = {_duration(policy.post_action_delay_seconds)}",
        f"unload_deadline = {_duration(policy.unload_deadline_seconds)}",
        f"drain_deadline = {_duration(policy.drain_deadline_seconds)}",
        f"condemned = {_duration(policy.condemned_seconds)}",
        f"condemned_at_most = {_duration(policy.condemned_max_seconds)}",
        f"kills_per_hour = {policy.kills_per_hour}",
        f"runners_die_first = {_switch(policy.runners_die_first)}",
    ]
    return _block("policy", lines)


def _record(policy: Policy) -> str:
    record = policy.record
    lines = [
        f"enabled = {_switch(record.enabled)}",
        f"max_total = {_text(format_bytes(record.max_total_bytes))}",
        f"max_file = {_text(format_bytes(record.max_file_bytes))}",
    ]
    if record.folder:
        lines.append(f"folder = {_text(record.folder)}")
    return _block("record", lines)


def _quarantine(policy: Policy) -> str:
    quarantine = policy.quarantine
    lines = [
        f"enabled = {'true' if quarantine.enabled else 'false'}",
        f"action = {_text(quarantine.action)}",
        f"restore = {'true' if quarantine.restore else 'false'}",
        f"restore_after = {_duration(quarantine.restore_after_seconds)}",
    ]
    return _block("quarantine", lines)


def _notify(policy: Policy) -> str:
    webhook = policy.notify.webhook
    lines = [f"webhook = {_text(webhook)}"] if webhook else []
    return _block("notify", [*lines, f"timeout = {_duration(policy.notify.timeout_seconds)}"])


def _tier(tier: Tier) -> str:
    lines = [f"name = {_text(tier.name)}", f"model = {_text(tier.model)}"]
    lines += [f"for = {_text(tier.purpose)}"] if tier.purpose else []
    sizes = {"disk": tier.disk_bytes, "memory": tier.memory_bytes}
    lines += [f"{key} = {_text(format_bytes(size))}" for key, size in sizes.items() if size is not None]
    return _block("[tiers]", lines)


def _threshold(threshold: Threshold) -> str:
    if threshold.ratio == 0:
        return _text(format_bytes(threshold.floor_bytes))
    bounds = ""
    if threshold.floor_bytes:
        bounds += f", at_least = {_text(format_bytes(threshold.floor_bytes))}"
    if threshold.ceiling_bytes < NO_CEILING_BYTES:
        bounds += f", at_most = {_text(format_bytes(threshold.ceiling_bytes))}"
    below = _text(format_ratio(threshold.ratio))
    return f"{{ below = {below}{bounds} }}" if bounds else below


def _reclaim(policy: Policy) -> str:
    share, floor = policy.min_reclaim_ratio, policy.min_reclaim_floor_bytes
    if share == 0:
        return _text(format_bytes(floor))
    return f"{{ share = {_text(format_ratio(share))}, at_least = {_text(format_bytes(floor))} }}"


def _block(name: str, lines: list[str]) -> str:
    return "\n".join([f"[{name}]", *lines, ""])


def _switch(value: bool) -> str:  # noqa: FBT001 - what is written
    return "true" if value else "false"


def _duration(seconds: float) -> str:
    return _text(format_duration(seconds))


def _text(text: str) -> str:
    """A TOML string; names and paths hold printable characters only, for which JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False)
