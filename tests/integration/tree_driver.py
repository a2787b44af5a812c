"""The real sentinel and its real hands over a /proc and a cgroup tree laid out in a folder.

Arguments: runtime directory, root of the tree, policy as JSON file.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

from ollama_guard.core.codec import from_plain
from ollama_guard.core.policy import Policy
from ollama_guard.sentinel.journal import open_journal
from ollama_guard.sentinel.loop import Loop
from ollama_guard.sentinel.outfit import Outfit, Setup
from ollama_guard.sentinel.sensors import Sensors


def main() -> None:
    """Guard until told to stop."""
    runtime_dir, root, policy_path = map(Path, sys.argv[1:])
    policy: Policy = from_plain(Policy, json.loads(policy_path.read_text()))
    senses = partial(Sensors, proc=str(root / "proc"), cgroup_root=str(root / "cgroup"), open_pidfd=None)
    outfit = Outfit(
        Setup(policy, "", runtime_dir, str(runtime_dir / "var")), open_journal(os.environ), senses
    )
    try:
        Loop(outfit).run()
    finally:
        outfit.close()


if __name__ == "__main__":
    main()
