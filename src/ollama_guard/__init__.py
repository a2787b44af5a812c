"""ollama-guard keeps a Linux machine alive while Ollama runs on it.

The packages, and who may import whom (checked by import-linter):

* ``core``     the whole brain: pure functions over frozen values; no I/O, no clock.
* ``wire``     messages between the two processes.
* ``sentinel`` the small process that senses, decides and kills; it never waits.
* ``hands``    the process that talks to Ollama and to people; it may be slow.
* ``settings`` turns the owner's TOML into one frozen ``core`` policy.
* ``control``  the two unix sockets and the status file.
* ``integrations`` what runs inside other programs, and what is written for them: today the LiteLLM proxy.
* ``cli``      the commands; the only place that wires everything together.
* ``testing``  the fake Ollama and scenario builders, shipped because the demo uses them too.
"""

__version__ = "0.1.0"
