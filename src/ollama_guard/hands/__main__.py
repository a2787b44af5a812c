"""The entry point that the sentinel starts."""

import os
import sys

# httpx and structlog load these, where installed, for a command line and coloured tracebacks that are
# never used here: 8 MiB. Both do without them when they are missing.
for name in ("click", "pygments", "rich"):
    sys.modules[name] = None  # type: ignore[assignment]

from ollama_guard.hands.main import main  # noqa: E402  (must come after the lines above)

code = main()
# A thread that hangs in a foreign call must not hold up the end.
sys.stderr.flush()
os._exit(code)
