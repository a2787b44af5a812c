"""Model names as Ollama takes them apart (facts 5.1), and the name that a hidden model is kept as.

A hidden model keeps its model, tag and namespace; only its host gets the prefix ``quarantine.``. Such a host
is valid by Ollama's rules, can't be pulled from, and is turned back without any record.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
HIDDEN_PREFIX = "quarantine."

# Characters; Ollama's own limits of a host and of each other part.
_LONGEST_HOST = 350
_LONGEST_PART = 80
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*", re.ASCII)
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Name:
    """A whole name: ``host/namespace/model:tag``, each part as it was spelled."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """The four steps of its manifest's path."""
        return (self.host, self.namespace, self.model, self.tag)

    @property
    def shown(self) -> str:
        """As Ollama lists it: host and namespace only where they are not the default ones."""
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        prefix = "" if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}/"
        return f"{prefix}{self.model}:{self.tag}"

    @property
    def hidden(self) -> bool:
        """Whether a hidden model is kept as this."""
        return self.host.startswith(HIDDEN_PREFIX)

    @property
    def folded(self) -> tuple[str, str, str, str]:
        """Equal for two names that Ollama can't tell apart (facts 5.1: case)."""
        return (self.host.lower(), self.namespace.lower(), self.model.lower(), self.tag.lower())


def parse(text: str) -> Name | None:
    """The name that Ollama would read in this text, its tag ``latest`` where none is given; None if none."""
    *prefix, last = text.split("/")
    model, colon, tag = last.partition(":")
    defaults = [DEFAULT_HOST, DEFAULT_NAMESPACE]
    if len(prefix) > len(defaults):
        return None
    host, namespace = (*defaults[: len(defaults) - len(prefix)], *prefix)
    return of_parts(host, namespace, model, tag if colon else DEFAULT_TAG)


def of_parts(host: str, namespace: str, model: str, tag: str) -> Name | None:
    """The name of these four parts; None when Ollama would refuse one of them."""
    name = Name(host, namespace, model, tag)
    rules = (_HOST, _NAMESPACE, _PART, _PART)
    longest = (_LONGEST_HOST, _LONGEST_PART, _LONGEST_PART, _LONGEST_PART)
    checked = zip(name.parts, rules, longest, strict=True)
    return name if all(len(part) <= most and rule.fullmatch(part) for part, rule, most in checked) else None


def alias_of(name: Name) -> Name | None:
    """What a name is kept as while it is hidden; None when it is hidden already, or its host is too long."""
    if name.hidden:
        return None
    return of_parts(HIDDEN_PREFIX + name.host, name.namespace, name.model, name.tag)


def original_of(alias: Name) -> Name | None:
    """The name that clients asked for, from what it is kept as; None when it is no such alias."""
    if not alias.hidden:
        return None
    return of_parts(alias.host.removeprefix(HIDDEN_PREFIX), alias.namespace, alias.model, alias.tag)


def is_alias(text: str) -> bool:
    """Whether a hidden model is kept as this: no name that clients ask for, though they could."""
    name = parse(text)
    return name is not None and name.hidden


def is_cloud(text: str) -> bool:
    """Whether the name ends as Ollama marks a model that runs elsewhere (facts 1.5)."""
    return text.lower().endswith((":cloud", "-cloud"))


def is_local(text: str) -> bool:
    """Whether it names a model that can run here."""
    return parse(text) is not None and not is_cloud(text)


def is_misread(text: str) -> bool:
    """Whether some of Ollama's calls take the name's end for a place where it runs, and others don't.

    A copy of such a name and its delete would mean different models (facts 5.2), so it is never hidden.
    """
    return is_cloud(text) or text.lower().endswith(":local")
