"""What one word of a text is."""

from __future__ import annotations

import re

from holonomy.core.errors import ConfigError

WORD_PATTERN = r"""[\w']+|[.,!?;:"]"""
"""Words with their case, and punctuation; everything else is dropped."""


def token_pattern(pattern: str) -> re.Pattern[str]:
    """A regular expression of one token.

    Raises:
        ConfigError: it is none, finds empty tokens, or its groups would be found in their place.
    """
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"`pattern` {pattern!r} is not a regular expression: {error}") from error
    if found.groups or found.match(""):
        reason = "has groups, write (?:...) for (...)" if found.groups else "matches the empty text"
        raise ConfigError(f"`pattern` {pattern!r} {reason}; wanted a regular expression of one token")
    return found
