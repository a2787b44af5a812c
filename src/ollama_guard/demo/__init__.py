"""The demo: a live show of the real guard on the fake Ollama, inside a small memory budget.

Belongs here: the narrowed world (a process view with the demo's own processes and a meminfo of its own), the
actors, the story, and how it is drawn. Sentinel and hands are the very programs that `run` starts; only
what they see is narrowed, by what the sensors' roots point to. Must not: anything that the daemon imports.
"""
