"""The errors that a caller can tell apart; the command line maps them to its exit codes."""

from __future__ import annotations


class AutotuneError(Exception):
    """Base of every error that this package raises on purpose."""


class UsageError(AutotuneError, ValueError):
    """The caller gave something that cannot be used. The message names the field, the value and the way out."""


class EmptySpaceError(UsageError):
    """No configuration satisfies the known constraints of a search space."""


class StudyExistsError(UsageError):
    """A study of that name is in the database already, perhaps since a moment ago."""


class StoreError(AutotuneError):
    """The results database cannot be opened, read or written."""


class LeaseLostError(StoreError):
    """A trial was told under a lease that has since been given to another worker, or was told already."""


class SpaceExhaustedError(AutotuneError):
    """Every feasible configuration has been proposed; there is nothing left to ask for."""


class SearchFailedError(AutotuneError):
    """A search ended without a single feasible measurement."""
