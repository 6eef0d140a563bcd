"""Shell completion of what this program knows: studies, domains, strategies, pruners and pictures.

What completes a parameter is told by the parameter's name, so that verbs of other packages are completed as ours are. A store
is only read. Whatever goes wrong ends in no suggestion, as a message would be written into the line that the user types.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any

import click
import sqlalchemy as sa
from click.shell_completion import CompletionItem

Names = Callable[[str | None], Iterable[str]]  # of the storage that the line names, if it does

_SHOWN = 200  # studies, the newest; a terminal has no room for more
_CONNECT_S = "2"  # a database server that does not answer is given up before the user gives up
# Shells take what is suggested apart again, some of them by `eval`: nothing that means something to one may get there.
_PLAIN = re.compile(r"[\w.@%+,/][\w.:@%+,/=-]*")
_BREAKS = re.compile(r"[:=]+")  # where bash takes words apart


def _studies(storage: str | None) -> list[str]:
    from autotune.store import models as m  # noqa: PLC0415 - each reads what it needs
    from autotune.store.engine import open_engine  # noqa: PLC0415

    if not storage:
        return []
    os.environ.setdefault("PGCONNECT_TIMEOUT", _CONNECT_S)
    engine = open_engine(storage, read_only=True)
    try:
        with engine.connect() as connection:
            newest = sa.select(m.studies.c.name).order_by(m.studies.c.id.desc()).limit(_SHOWN)
            return list(connection.execute(newest).scalars())
    finally:
        engine.dispose()


def _domains(_: str | None) -> list[str]:
    from autotune.domain import domain_names  # noqa: PLC0415

    return domain_names()


def _strategies(_: str | None) -> Iterable[str]:
    from autotune.strategies import STRATEGIES  # noqa: PLC0415

    return STRATEGIES


def _pruners(_: str | None) -> Iterable[str]:
    from autotune.pruning import PRUNERS  # noqa: PLC0415

    return PRUNERS


def _kinds(_: str | None) -> Iterable[str]:
    from autotune.plots import VIEWS  # noqa: PLC0415

    return VIEWS


# By a verb and a parameter of it, else by the parameter alone.
_COMPLETED: dict[tuple[str | None, str], Names] = {
    (None, "study"): _studies,
    (None, "transfer_from"): _studies,
    (None, "domain"): _domains,
    ("search", "target"): _domains,
    ("domains", "name"): _domains,
    (None, "strategy"): _strategies,
    (None, "pruner"): _pruners,
    ("plot", "kind"): _kinds,
}


class _Completed(click.types.StringParamType):
    """Text that is completed."""

    def __init__(self, names: Names) -> None:
        self.names = names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """See click."""
        with suppress(Exception):
            found = self.names(ctx.params.get("storage"))
            return [CompletionItem(n) for n in found if n.startswith(incomplete) and _PLAIN.fullmatch(n)]
        return []


def complete(command: click.Command, path: tuple[str, ...] = ()) -> None:
    """Lets the text parameters of a command, and of all below it, be completed."""
    verb = path[0] if path else None
    for parameter in command.params:
        names = _COMPLETED.get((verb, parameter.name or "")) or _COMPLETED.get((None, parameter.name or ""))
        if names is not None and type(parameter.type) is click.types.StringParamType:
            parameter.type = _Completed(names)
    below: dict[str, Any] = getattr(command, "commands", {})
    for name, one in below.items():
        complete(one, (*path, name))


def mend(environment: MutableMapping[str, str]) -> bool:
    """Puts words together again that bash took apart at colons and equals signs, ``--storage sqlite:///runs.db``.

    Args:
        environment: of the process; ``COMP_WORDS`` (one word a line) and ``COMP_CWORD`` are replaced.

    Returns:
        Whether what is being typed can be completed: not where it is itself a part of such a word, as bash would
        put the whole of a suggestion in the place of the part.
    """
    words = environment.get("COMP_WORDS", "").split("\n")
    try:
        current = int(environment["COMP_CWORD"])
    except (KeyError, ValueError):
        return False
    words = words[: current + 1] + [""] * (current + 1 - len(words))
    *before, typed = words
    if _BREAKS.fullmatch(typed):
        before, typed = [*before, typed], ""
    whole = True
    if before and _BREAKS.fullmatch(before[-1]):
        option = len(before) > 1 and before[-2].startswith("--") and before[-1] == "="
        before, whole = before[:-1], option
    mended: list[str] = []
    glue = False
    for word in before:
        is_break = _BREAKS.fullmatch(word) is not None
        if mended and (glue or is_break):
            mended[-1] += word
        else:
            mended.append(word)
        glue = is_break
    environment["COMP_WORDS"] = "\n".join([*mended, typed])
    environment["COMP_CWORD"] = str(len(mended))
    return whole
