"""`autotune hardware` and `autotune doctor`: what this machine can do, and whether autotune works on it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from autotune.cli.common import DEFAULT_STORAGE, JsonOption, StorageOption, console, print_json, table
from autotune.errors import AutotuneError, SearchFailedError
from autotune.text import number


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("hardware")(hardware)
    app.command("doctor")(doctor)


def hardware(
    name: Annotated[
        str | None, typer.Argument(help="Show this named profile or JSON file instead of measuring.")
    ] = None,
    tier_pair: Annotated[
        str | None, typer.Option("--tier-pair", help="ram<-disk, or gpu<-host where there is a GPU.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", help="Also measure this work, such as ffn:hidden=2048,inter=768; repeatable."),
    ] = None,
    remeasure: Annotated[bool, typer.Option("--remeasure", help="Forget what was measured before.")] = False,
    scratch: Annotated[Path | None, typer.Option("--scratch", help="Folder on the disk to measure.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Time to spend on measuring.")] = 30.0,
    json_: JsonOption = False,
) -> None:
    """Measure this machine (transfers between memory tiers, expert compute) and show it; measured once, then reused."""
    from autotune.hardware import DEFAULT_SHAPES, TierPair, load_named, load_or_measure, parse_shape  # noqa: PLC0415

    if name is not None:
        profile = load_named(name)
    else:
        pair = TierPair.parse(tier_pair) if tier_pair else TierPair.detect()
        shapes = [*DEFAULT_SHAPES, *(parse_shape(text) for text in shape or [])]
        profile = load_or_measure(
            pair,
            shapes,
            remeasure=remeasure,
            scratch=scratch,
            budget_s=seconds,
            progress=lambda step: print(f"measuring {step.number}/{step.total}: {step.what}", file=sys.stderr),
        )
    if json_:
        print_json(profile.to_dict())
        return
    facts = profile.environment.to_dict()
    measured = f": {profile.tier_pair}, measured {profile.created_at:%Y-%m-%d %H:%M} UTC"
    console.print(Text.assemble((profile.name, "bold"), measured))
    for key, value in _flat(facts["details"]):
        console.print(f"  {key}: {value}", soft_wrap=True)
    rows = [
        [
            str(row["what"]),
            str(row["on"]),
            _size(row["size"]) if row["unit"] == "B" else f"{row['size']:g} {row['unit']}",
            number(row["ms"]),
            f"± {number(row['half_width_ms'])}",
            number(row["gib_s"]) if row["gib_s"] is not None else "",
            "noisy" if row["noisy"] else "",
        ]
        for row in profile.summary()
    ]
    columns = ["what", "on", "size", "ms", "95 %", "GiB/s", ""]
    console.print(table(None, columns, rows, right=["size", "ms", "95 %", "GiB/s"]))
    for warning in profile.warnings():
        print(f"autotune: {warning}", file=sys.stderr)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value not in (None, [], ""):
            yield f"{prefix}{name}", str(value)


def _size(nbytes: float) -> str:
    for unit, length in (("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= length:
            return f"{nbytes / length:g} {unit}"
    return f"{nbytes:g} B"


def doctor(storage: StorageOption = DEFAULT_STORAGE, json_: JsonOption = False) -> None:
    """Check that autotune works on this machine, and say what to do where it does not."""
    checks = list(_checks(storage))
    if json_:
        print_json(
            [{"check": name, "ok": ok, "detail": detail, "required": required} for name, ok, detail, required in checks]
        )
    else:
        rows: list[list[str | Text]] = [
            [Text("ok", "green") if ok else Text("FAIL", "red") if required else Text("absent", "yellow"), name, detail]
            for name, ok, detail, required in checks
        ]
        console.print(table(None, ["", "check", "detail"], rows))
    broken = [name for name, ok, _, required in checks if required and not ok]
    if broken:
        raise SearchFailedError(f"not in order: {', '.join(broken)}")


def _checks(storage: str) -> Iterator[tuple[str, bool, str, bool]]:
    """Each check as (name, whether it holds, detail, whether autotune needs it)."""
    yield "python", sys.version_info >= (3, 11), sys.version.split()[0], True
    for package in ("numpy", "torch", "numba", "optuna", "sqlalchemy"):
        yield _attempt(package, _version(package), True)
    for package, extra in (
        ("streamlit", "dashboard"),
        ("transformers", "hf"),
        ("pyarrow", "parquet"),
        ("psycopg", "postgres"),
        ("cmaes", "samplers"),
    ):
        check = _attempt(package, _version(package), False)
        yield check if check[1] else (package, False, f"optional; pip install 'autotune[{extra}]'", False)
    yield _attempt("gpu", _gpu, False)
    yield _attempt("domains", _domains, True)
    yield _attempt("storage", lambda: _storage(storage), True)
    yield _attempt("hardware cache", _cache, True)


def _version(package: str) -> Callable[[], str]:
    return lambda: str(importlib.import_module(package).__version__)


def _attempt(name: str, check: Callable[[], str], required: bool) -> tuple[str, bool, str, bool]:
    try:
        return name, True, check(), required
    except (ImportError, AutotuneError, OSError, RuntimeError) as error:
        return name, False, str(error).splitlines()[0], required


def _gpu() -> str:
    import torch  # noqa: PLC0415

    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device; the tier pair ram<-disk is used")
    return str(torch.cuda.get_device_name(0))


def _domains() -> str:
    from autotune.domain import domain_names, load_domain  # noqa: PLC0415

    return ", ".join(load_domain(name).name for name in domain_names())


def _storage(url: str) -> str:
    from autotune.store import Store  # noqa: PLC0415
    from autotune.store.engine import sqlite_file  # noqa: PLC0415

    file = sqlite_file(url)
    if file is not None and not file.exists():
        return f"{url} is new and will be made by the first search"
    store = Store(url, read_only=True)
    count = len(store.records())
    store.close()
    return f"{url}: {count} studies"


def _cache() -> str:
    from autotune.hardware import cache_folder  # noqa: PLC0415

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".doctor"
    probe.write_text("")
    probe.unlink()
    return str(folder)
