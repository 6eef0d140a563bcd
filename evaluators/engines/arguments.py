"""Command-line arguments of an engine as a file."""

from __future__ import annotations

from collections.abc import Sequence


def commented(title: str, notes: Sequence[str], cannot: Sequence[str], arguments: Sequence[str]) -> str:
    """Command-line arguments as a file: comments that say what they are, then the arguments, an option per line.

    A shell takes the file as ``$(grep -v '^#' THIS_FILE)``; so no argument may hold a blank or a character of its patterns.
    """
    lines = [title, *notes]
    if cannot:
        lines += ["Not expressed:", *(f"- {sentence}" for sentence in cannot)]
    return "".join(f"# {line}\n" for line in lines) + "".join(f"{argument}\n" for argument in arguments)
