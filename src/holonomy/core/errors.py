"""The error family of holonomy.

Every error is one paragraph that names the argument in backticks, says what came, what was wanted and
the fix. `exit_code` is what the command line returns for it.
"""

from __future__ import annotations

from pathlib import Path


class HolonomyError(Exception):
    """Base of all errors raised on purpose by holonomy."""

    exit_code = 1


class ConfigError(HolonomyError):
    """A wrong option, key, value or combination; also used for wrong arguments of a call."""

    exit_code = 2


class IllegalMix(ConfigError):
    """A layer and a learning rule that do not go together."""


class DataError(HolonomyError):
    """Data that is missing, unreadable, empty, too short or not text."""

    exit_code = 3


class CheckpointError(HolonomyError):
    """A checkpoint or run directory that is damaged, foreign, newer than this code, or locked."""

    exit_code = 4


class TrainingDiverged(HolonomyError):
    """The loss or the statistics stopped being finite; the message names the last good checkpoint."""

    exit_code = 5
    run: Path | None = None
    """Directory of the run, once it has one."""


class StorageError(HolonomyError):
    """Writing failed: no space left, no permission, or another I/O failure."""

    exit_code = 6


class TapeError(HolonomyError):
    """Echo records popped in the wrong order, twice, or never pushed."""


class Interrupted(HolonomyError):
    """Training was stopped by a signal after saving.

    Args:
        signum: number of the signal (2 for SIGINT, 15 for SIGTERM).
        checkpoint: directory that was saved, or None when nothing had been trained yet.
    """

    run: Path | None = None
    """Directory of the run, once it has one."""

    def __init__(self, signum: int, checkpoint: Path | None) -> None:
        self.signum = signum
        self.checkpoint = checkpoint
        self.exit_code = 128 + signum
        saved = f"saved {checkpoint}" if checkpoint else "nothing had been trained yet"
        super().__init__(f"interrupted by signal {signum}; {saved}")
