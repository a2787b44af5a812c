"""Writing what `init` drafted: first the difference, then the rights, then the copies, then the files."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator
from pathlib import Path

from ollama_guard.cli.drafts import Draft, Plan
from ollama_guard.cli.written import Record, below, read_only, unwritable
from ollama_guard.errors import GuardError


def proposed(plan: Plan) -> Iterator[str]:
    """Each file as it would be."""
    for draft in plan.drafts:
        yield f"==> {draft.path}\n{draft.text}"


def applied(plan: Plan, record: Record, environment_dir: Path) -> Iterator[str]:
    """Write what differs; yields what changed, what was written, and what makes it effective.

    Raises:
        GuardError: this user may not write there (then nothing was written), or a write failed.
    """
    folder = below(record.root, environment_dir) if plan.shared else None
    changed = [
        (draft, before or "") for draft in plan.drafts if (before := record.text_of(draft.path)) != draft.text
    ]
    if not changed and (folder is None or folder.is_dir()):
        yield f"nothing to change: {', '.join(draft.path for draft in plan.drafts)}"
        return
    for draft, before in changed:
        yield difference(draft.path, before, draft.text)
    _check_rights([record.file, *(below(record.root, Path(draft.path)) for draft, _ in changed)])
    try:
        record.environment = dict(plan.environment)
        if folder is not None:
            record.make_environment_dir(folder)
        yield from _written(record, [draft for draft, _ in changed])
    except OSError as error:
        raise GuardError(
            f"not everything was written: {error}; `ollama-guard release` takes back what was"
        ) from None
    for command in dict.fromkeys(draft.effective for draft, _ in changed):
        yield f"in force after: {command}"


def _written(record: Record, drafts: list[Draft]) -> Iterator[str]:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for draft in drafts:
        copy = record.write(draft.path, draft.text, stamp, draft.basis)
        kept = f"; what was there is kept as {copy}" if copy else ""
        yield f"written: {draft.path}{kept}"


def _check_rights(targets: list[Path]) -> None:
    refused = [str(target) for target in targets if unwritable(target)]
    frozen = [str(target) for target in targets if read_only(target)]
    if frozen:
        raise GuardError(
            f"nothing was written: the disk of {', '.join(frozen)} is mounted read-only: remount it writable,"
            " or put there by other means what `ollama-guard init` shows"
        )
    if refused:
        raise GuardError(
            f"nothing was written: this user may not write {', '.join(refused)}; run it as root:"
            " sudo ollama-guard init --apply"
        )


def difference(path: str, before: str, after: str) -> str:
    """A unified diff of one file."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{path} (now)", f"{path} (as advised)", lineterm=""
    )
    return "\n".join(lines) + "\n"
