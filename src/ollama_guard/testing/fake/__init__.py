"""A fake Ollama that behaves as the facts say: real child processes that take real memory.

Belongs here: the API, the scheduler, the runners, the faults, and `FakeOllama`, which starts it all as a
child process. Standard library only. Must not: anything that production code imports.
"""

from ollama_guard.testing.fake.calls import Answer, Stream
from ollama_guard.testing.fake.wrapper import FakeOllama

__all__ = ["Answer", "FakeOllama", "Stream"]
