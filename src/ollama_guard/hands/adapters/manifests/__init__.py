"""Ollama's models folder as files (facts 5.1): where it is, what is hidden in it, hiding by rename.

What belongs here: paths, folders, manifests, and the rename that never overwrites. What must not: when to
hide what, Ollama's API, threads.
"""

from ollama_guard.hands.adapters.manifests.places import Place, Wanted, locate
from ollama_guard.hands.adapters.manifests.store import Manifest, Manifests, entry_of

__all__ = ["Manifest", "Manifests", "Place", "Wanted", "entry_of", "locate"]
