"""Names and what they stand for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from holonomy.core.errors import ConfigError

T = TypeVar("T")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name most like `name`, or None when none is close."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return found[0] if found else None


class Registry(Generic[T]):
    """An ordered table of named things; an unknown name gets a suggestion.

    Args:
        kind: what the things are called in messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}

    def register(self, name: str, thing: T) -> None:
        """Adds a thing.

        Raises:
            ConfigError: the name is taken.
        """
        if name in self._things:
            raise ConfigError(f"{self.kind} `{name}` is registered already; choose another name")
        self._things[name] = thing

    def get(self, name: str) -> T:
        """Looks a name up.

        Raises:
            ConfigError: unknown name; the message suggests the nearest and lists all.
        """
        if name not in self._things:
            near = nearest(name, self._things)
            hint = f"did you mean `{near}`? " if near else ""
            raise ConfigError(f"unknown {self.kind} `{name}`; {hint}known: {', '.join(self._things)}")
        return self._things[name]

    def __iter__(self) -> Iterator[T]:
        return iter(self._things.values())
