"""Ollama's HTTP API (facts 1 and 9), both dialects.

What belongs here: the requests, the judgement of every answer, and the join of names to blobs.
What must not: when to ask, what to do with the answer, threads.
"""

from ollama_guard.hands.adapters.ollama.adapter import OllamaAdapter

__all__ = ["OllamaAdapter"]
