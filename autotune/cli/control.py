"""`autotune stop`, `resume`, `archive` and `upgrade`: steering searches, and putting studies and databases in order."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from autotune.cli.common import (
    DEFAULT_STORAGE,
    JsonOption,
    StorageOption,
    StudyArgument,
    command_line,
    console,
    print_json,
)
from autotune.cli.search import run, stored_request
from autotune.cli.studies import named_study
from autotune.errors import UsageError

STOP_EXAMPLES = """
[bold]Examples[/bold]

  autotune stop moe-cache

  autotune stop nightly --storage postgresql://me@host/runs    (wherever its workers run)
"""

RESUME_EXAMPLES = """
[bold]Examples[/bold]

  autotune resume moe-cache --trials 100

  autotune resume nightly --timeout 3600 --storage postgresql://me@host/runs
"""

ARCHIVE_EXAMPLES = """
[bold]Examples[/bold]

  autotune archive first-try

  autotune archive first-try --undo

  autotune studies --archived
"""


UPGRADE_EXAMPLES = """
[bold]Examples[/bold]

  autotune upgrade --storage sqlite:///last-year.db
"""


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("stop", epilog=STOP_EXAMPLES)(stop)
    app.command("resume", epilog=RESUME_EXAMPLES)(resume)
    app.command("archive", epilog=ARCHIVE_EXAMPLES)(archive)
    app.command("upgrade", epilog=UPGRADE_EXAMPLES)(upgrade)


def stop(study: StudyArgument = None, storage: StorageOption = DEFAULT_STORAGE, json_: JsonOption = False) -> None:
    """Ask all searches of a study to end after the evaluation that each is at; what they measured is kept."""
    from autotune.store import Store, TrialState  # noqa: PLC0415 - these verbs should start fast
    from autotune.store.workers import user_name  # noqa: PLC0415

    with closing(Store(storage, create=False)) as store:
        record = named_study(store, study)
        running = next(s for s in store.studies() if s.study.id == record.id).trials.get(TrialState.RUNNING, 0)
        if record.state != "running" and not running:
            raise UsageError(
                f"study {record.name!r} has no search to stop: it is {record.state}"
                + (f" ({record.stop_reason})" if record.stop_reason else "")
            )
        by = user_name() or "somebody"
        store.request_stop(record.id, by)
    if json_:
        print_json({"study": record.name, "stop_requested_by": by, "running": running})
        return
    waits = f"after {running} evaluation{'s' if running != 1 else ''} under way" if running else "before the next trial"
    console.print(f"study {record.name!r} is asked to stop, {waits}; what was measured is kept", soft_wrap=True)
    console.print(f"go on with it: {command_line('resume', record.name, storage=storage)}", soft_wrap=True)


def resume(
    context: typer.Context,
    study: StudyArgument = None,
    storage: StorageOption = DEFAULT_STORAGE,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials", help="Trials in the study when it is done; as before when left out.", show_default=False
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Stop asking after so long.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Go on with a stored study of a domain or of a command, as it was made."""
    request = stored_request(study, storage)
    for name, value in (("trials", trials), ("timeout_s", timeout)):
        if value is not None:
            request.arguments[name] = value
    run(request, storage, json_=json_, typed=context.obj)


def archive(
    study: StudyArgument = None,
    storage: StorageOption = DEFAULT_STORAGE,
    undo: Annotated[bool, typer.Option("--undo", help="Take it back.")] = False,
    json_: JsonOption = False,
) -> None:
    """Put a study aside: lists leave it out, and nothing of it is lost."""
    from autotune.store import Store  # noqa: PLC0415

    with closing(Store(storage, create=False)) as store:
        record = named_study(store, study)
        store.archive(record.id, archived=not undo)
        record = store.load_study(record.name)
    if json_:
        print_json({"study": record.name, "archived_at": record.archived_at})
        return
    back = [] if undo else ["--undo"]
    console.print(f"study {record.name!r} is {'listed again' if undo else 'archived'}", soft_wrap=True)
    console.print(f"take it back: {command_line('archive', record.name, *back, storage=storage)}", soft_wrap=True)


def upgrade(storage: StorageOption = DEFAULT_STORAGE, json_: JsonOption = False) -> None:
    """Bring a database that an older version made up to date, so that it can be looked at; all that it holds is kept."""
    from autotune.store import Store  # noqa: PLC0415
    from autotune.store.models import HEAD_REVISION  # noqa: PLC0415

    with closing(Store(storage, create=False)) as store:
        url = store.url
    if json_:
        print_json({"storage": url, "schema": HEAD_REVISION})
        return
    console.print(f"{url} is up to date (schema {HEAD_REVISION})", soft_wrap=True)
