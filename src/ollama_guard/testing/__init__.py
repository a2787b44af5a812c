"""Fakes that ship: the fake Ollama and scenario builders; the demo uses them too.

Belongs here: what stands in for a foreign system, following its facts point by point. Must not:
anything that production code imports.
"""
