"""Where profiles are kept: the user's cache folder by the machine's fingerprint, and named ones shipped with the package."""

from __future__ import annotations

import importlib.resources
import importlib.resources.abc
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import platformdirs

from autotune.errors import UsageError
from autotune.hardware.fingerprint import Environment, current_environment
from autotune.hardware.profile import ComputeEntry, HardwareProfile
from autotune.hardware.shapes import DenseShape, FfnShape
from autotune.hardware.threads import compute_threads
from autotune.hardware.tiers import DEFAULT_FILE_BYTES, TierPair, check_scratch

# Half a minute is what somebody who starts a first search will wait for without asking why.
DEFAULT_BUDGET_S = 30.0
# The notes of a profile that say on how many threads computation was measured, and by what means transfers were made.
THREADS, TRANSFERS = "torch_threads", "transfers"


@dataclass(frozen=True)
class Step:
    """Progress of a measurement: step `number` (from 1) of `total` begins."""

    number: int
    total: int
    what: str


def cache_folder() -> Path:
    """``$AUTOTUNE_CACHE_DIR/hardware``, or ``hardware`` in the user's cache folder."""
    base = os.environ.get("AUTOTUNE_CACHE_DIR") or platformdirs.user_cache_dir("autotune")
    return Path(base) / "hardware"


def cache_path(fingerprint: str, tier_pair: TierPair) -> Path:
    """The file of one machine's profile of one tier pair."""
    return cache_folder() / f"{fingerprint}-{tier_pair.slug}.json"


def load_cached(environment: Environment, tier_pair: TierPair) -> HardwareProfile | None:
    """The cached profile of a machine, or None where there is none, or one by a version that timed other transfers.

    Compute curves that were measured on another number of threads than would be used now are left out.

    Raises:
        UsageError: the file cannot be read as a profile, or is another machine's.
    """
    path = cache_path(environment.fingerprint, tier_pair)
    if not path.exists():
        return None
    profile = _read(path, "delete it, or measure again with: autotune hardware --remeasure")
    if profile.environment.fingerprint != environment.fingerprint or profile.tier_pair != tier_pair.name:
        raise UsageError(
            f"{path} holds a profile of {profile.tier_pair} on machine {profile.environment.fingerprint}; delete it or "
            "measure again with: autotune hardware --remeasure"
        )
    if TRANSFERS not in profile.notes:
        return None
    return profile if profile.notes.get(THREADS) == compute_threads() else profile.only(())


def save_cached(profile: HardwareProfile) -> Path:
    """Write a profile to the cache; readers see the old file or the new one, never a part.

    Raises:
        UsageError: the cache folder cannot be written.
    """
    path = cache_path(profile.environment.fingerprint, profile.tiers)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, profile.to_json())
    except OSError as error:
        raise UsageError(
            f"cache folder {path.parent} cannot be written ({error.strerror}); set AUTOTUNE_CACHE_DIR to another"
        ) from error
    return path


def load_or_measure(
    tier_pair: str | TierPair,
    shapes: Sequence[FfnShape | DenseShape] = (),
    *,
    remeasure: bool = False,
    progress: Callable[[Step], None] | None = None,
    scratch: Path | None = None,
    budget_s: float = DEFAULT_BUDGET_S,
    file_bytes: int = DEFAULT_FILE_BYTES,
    command: str | None = None,
    environment: Environment | None = None,
) -> HardwareProfile:
    """This machine's profile, measuring only what the cache lacks.

    Args:
        tier_pair: ``ram<-disk`` or ``gpu<-host``.
        shapes: what compute times are wanted of, on every device of the pair.
        remeasure: forget the cached profile, other shapes' curves included.
        progress: called as each step begins; never called when nothing is measured.
        scratch: folder on the disk to measure; by default the cache folder. Unused by ``gpu<-host``.
        budget_s: seconds for what is measured, as far as a first round of samples fits (see `measure.Budget`).
        file_bytes: size of the scratch file; what a drive's own cache can hide is at most a part of it.
        command: kept in the profile; by default this process's command line.
        environment: the machine; by default, found out.

    Raises:
        UsageError: an unusable scratch folder, a missing device, a corrupt cache file; see `tiers` and `compute`.
    """
    pair = TierPair.parse(tier_pair)
    folder = scratch_folder(scratch) if pair.slow_device is None else None
    machine = environment or current_environment(folder)
    cached = None if remeasure else load_cached(machine, pair)
    if cached is not None and not missing(cached, pair, shapes):
        return cached
    profile = measure_profile(
        pair, machine, shapes, known=cached, folder=folder, file_bytes=file_bytes, budget_s=budget_s, progress=progress,
        command=command or _command_line(),
    )  # fmt: skip
    save_cached(profile)
    return profile


def missing(
    known: HardwareProfile | None, pair: TierPair, shapes: Sequence[FfnShape | DenseShape]
) -> list[tuple[FfnShape | DenseShape, str]]:
    """Which shapes a profile lacks, on which of the pair's devices; each once, in the order given."""
    wanted = [(shape, device) for shape in dict.fromkeys(shapes) for device in pair.devices]
    return [(shape, device) for shape, device in wanted if known is None or not known.has(shape, device)]


def measure_profile(
    pair: TierPair,
    machine: Environment,
    shapes: Sequence[FfnShape | DenseShape],
    *,
    known: HardwareProfile | None = None,
    folder: Path | None = None,
    file_bytes: int = DEFAULT_FILE_BYTES,
    budget_s: float = DEFAULT_BUDGET_S,
    progress: Callable[[Step], None] | None = None,
    command: str,
) -> HardwareProfile:
    """Measure what `known` lacks, and nothing else; the cache is not touched. Arguments as in `load_or_measure`."""
    from autotune.hardware import measure  # noqa: PLC0415  (imports torch, seconds that a cached profile need not cost)

    lacking = missing(known, pair, shapes)
    total = len(lacking) + (known is None)
    budget = measure.Budget.share(budget_s, len(lacking)) if known is None else measure.Budget.curves(budget_s, total)
    steps = itertools.count(1)

    def report(what: str) -> None:
        if progress is not None:
            progress(Step(next(steps), total, what))

    if known is None:
        report(f"link {pair.name}")
        with pair.open_link(folder, file_bytes) as link:
            links, how = measure.measure_link(link, budget_s=budget.link_s), link.how
        notes = (
            measure.method_notes() | {TRANSFERS: how} | ({} if folder is None else {"scratch_file_bytes": file_bytes})
        )
        known = HardwareProfile(
            name=machine.fingerprint,
            tier_pair=pair.name,
            environment=machine,
            links=links,
            created_at=_now(),
            command=command,
            notes=notes,
        )
    entries: list[ComputeEntry] = []
    for shape, device in lacking:
        report(f"{shape} on {device}")
        entries.append(measure.measure_compute(shape, device, budget_s=budget.curve_s))
    notes = {**known.notes, THREADS: compute_threads()}
    return known.merge(entries).model_copy(update={"created_at": _now(), "command": command, "notes": notes})


def known_names() -> tuple[str, ...]:
    """Names of the profiles that ship with the package, sorted."""
    folder = _shipped()
    return (
        tuple(sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".json")))
        if folder.is_dir()
        else ()
    )


def load_named(name: str | Path) -> HardwareProfile:
    """A profile that ships with the package, by name, or any profile in a JSON file, by its path.

    Raises:
        UsageError: an unknown name, or a file that is no profile.
    """
    text = str(name)
    if text.endswith(".json") or os.sep in text:
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"hardware profile {text!r} is not a file; give a path, or one of: {_names()}")
        return _read(path, "give a file that 'autotune hardware --json' wrote")
    if text not in known_names():
        raise UsageError(f"hardware profile {text!r} is unknown; use one of: {_names()}, or the path of a JSON file")
    return HardwareProfile.from_json((_shipped() / f"{text}.json").read_bytes())


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by a temporary one in its folder."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix=f".{path.name}-", dir=path.parent, delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def scratch_folder(scratch: Path | None) -> Path:
    """The folder to measure the disk of: the given one, or the cache folder, made where it is missing."""
    if scratch is None:
        scratch = cache_folder()
        try:
            scratch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cache folder {scratch} cannot be made ({error.strerror}); set AUTOTUNE_CACHE_DIR to one that can"
            ) from error
    check_scratch(scratch, 0)
    return scratch


def _read(path: Path, way_out: str) -> HardwareProfile:
    try:
        return HardwareProfile.from_json(path.read_bytes())
    except (UsageError, OSError) as error:
        raise UsageError(f"{path} is no readable hardware profile ({error}); {way_out}") from error


def _shipped() -> importlib.resources.abc.Traversable:
    return importlib.resources.files("autotune.hardware") / "profiles"


def _names() -> str:
    return ", ".join(known_names()) or "(none ships)"


def _command_line() -> str:
    return " ".join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
