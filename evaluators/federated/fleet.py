"""The devices that train and their links: made up from known classes by a seed, or as a user's file lists them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotune.checks import whole
from autotune.errors import UsageError
from evaluators.federated.compressors.noise import hashes, normals
from evaluators.federated.compute_profile import ComputeProfile
from evaluators.federated.device_classes import DEVICES, GROUPS, LINKS
from evaluators.federated.tasks.partition import apportioned

__all__ = ["ComputeProfile", "Fleet", "fleet", "read_fleet"]

_GIB = 2**30
_MBIT = 1e6 / 8  # bytes
_DEVICE_NUMBERS = ("gflops", "memory_gib", "busy_w", "idle_w")
_LINK_NUMBERS = ("down_mbit_s", "up_mbit_s", "latency_ms", "radio_w")
_MAY_BE_ZERO = ("busy_w", "idle_w", "latency_ms", "radio_w")
_MOST_DEVICES = 100_000


@dataclass(frozen=True, eq=False)
class Fleet:
    """Devices; every tensor is ``(n,)`` float64 but for `kind`.

    Attributes:
        gflops: peak of float32, in 1e9 operations per second.
        memory_bytes: of each device.
        down_bytes_s, up_bytes_s: throughput of its link, to it and from it, as it is in the middle over rounds.
        latency_s: of a transfer, either way.
        busy_w, idle_w: while it computes, and while it does not.
        radio_w: what sending or receiving adds.
        kind: ``(n,)`` int64, position in `kinds`.
        kinds: names of the device classes.
        round_spread: deviation of the logarithm of both throughputs from round to round; 0 for links that stay as they are.
        seed: of what varies.
        reached: what devices reach of their peak, over what the measured machine reached of its own.
    """

    gflops: Tensor
    memory_bytes: Tensor
    down_bytes_s: Tensor
    up_bytes_s: Tensor
    latency_s: Tensor
    busy_w: Tensor
    idle_w: Tensor
    radio_w: Tensor
    kind: Tensor
    kinds: tuple[str, ...]
    round_spread: float = 0.0
    seed: int = 0
    reached: float = 1.0

    def __post_init__(self) -> None:
        _spread("round_spread", self.round_spread)
        if not 0.0 < self.reached < math.inf:
            raise UsageError(f"reached is {self.reached!r}; give a number above 0")

    @property
    def n(self) -> int:
        """Devices."""
        return len(self.gflops)

    def links(self, round_: int) -> tuple[Tensor, Tensor]:
        """Bytes per second to and from each device in a round, ``(n,)`` each.

        A device's two directions get better and worse together, by a lognormal factor of its own whose median is 1.
        """
        if self.round_spread == 0.0:
            return self.down_bytes_s, self.up_bytes_s
        factor = _lognormal(self.n, self.seed, self.round_spread, 1 + round_)
        return self.down_bytes_s * factor, self.up_bytes_s * factor

    def step_seconds(self, profile: ComputeProfile) -> tuple[Tensor, Tensor]:
        """Seconds of a gradient step by device, ``(n,)`` each: what it takes at all, and for each sample.

        Measured seconds times the measured core's float32 matrix products per second over the device's peak. It assumes that
        a device reaches the same share of its peak as the core that was measured, or `reached` times that. Tiny models reach
        less on a GPU, so that times are then too short, and comparable among devices of like kind alone.
        """
        slower = profile.gflops / (self.gflops * self.reached)
        return profile.fixed_s * slower, profile.sample_s * slower


def fleet(
    n: int,
    seed: int,
    mix: str = "phones:1,jetsons:2",
    link_spread: float = 0.5,
    round_spread: float = 0.3,
    reached: float = 1.0,
) -> Fleet:
    """Devices by a mix of classes, in its order.

    Args:
        n: devices.
        seed: of what links differ by.
        mix: classes of `device_classes.DEVICES`, or groups of them that are shared out alike, with the share of each:
            ``phones:40,jetsons:80``. Any link class may be named with it: ``phones@wifi:40``.
        link_spread: deviation of the logarithm of a device's throughput around its link class.
        round_spread, reached: see `Fleet`.

    Raises:
        UsageError: for a mix that cannot be read.
    """
    whole("devices", n, 1, _MOST_DEVICES)
    entries = _mix(mix)
    rows: list[dict[str, Any]] = []
    for (classes, link, _), count in zip(entries, apportioned(np.array([w for *_, w in entries]), n), strict=True):
        for name, several in zip(classes, apportioned(np.ones(len(classes)), int(count)), strict=True):
            rows += int(several) * [{"name": name, **_device(name), **_link(link or DEVICES[name].link)}]
    return _fleet(rows, seed, link_spread, round_spread, reached)


def read_fleet(
    path: str | Path, seed: int = 0, link_spread: float = 0.0, round_spread: float = 0.0, reached: float = 1.0
) -> Fleet:
    """Devices as a file lists them: a .csv file with a header, or a .json file with a list of objects, by the same names.

    `device` and `link` name known classes, `gflops`, `memory_gib`, `busy_w`, `idle_w`, `down_mbit_s`, `up_mbit_s`, `latency_ms`
    and `radio_w` set or replace their numbers, `name` tells devices of one's own apart, and `count` repeats a row.

    Raises:
        UsageError: one sentence that names the row and the column of what is wrong.
    """
    rows: list[dict[str, Any]] = []
    for number, given in enumerate(_read(Path(path)), start=1):
        row, count = _listed(f"{path}, device {number}", given)
        rows += count * [row]
        if len(rows) > _MOST_DEVICES:
            raise UsageError(f"{path} lists more than {_MOST_DEVICES} devices; list fewer")
    if not rows:
        raise UsageError(f"{path} lists no device; list at least one")
    return _fleet(rows, seed, link_spread, round_spread, reached)


def _fleet(
    rows: Sequence[Mapping[str, Any]], seed: int, link_spread: float, round_spread: float, reached: float
) -> Fleet:
    whole("seed", seed, 0)
    column = {
        name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)
        for name in (*_DEVICE_NUMBERS, *_LINK_NUMBERS)
    }
    kinds = tuple(dict.fromkeys(str(row["name"]) for row in rows))
    spread = _lognormal(len(rows), seed, _spread("link_spread", link_spread), 0)
    return Fleet(
        gflops=column["gflops"],
        memory_bytes=column["memory_gib"] * _GIB,
        down_bytes_s=column["down_mbit_s"] * _MBIT * spread,
        up_bytes_s=column["up_mbit_s"] * _MBIT * spread,
        latency_s=column["latency_ms"] / 1e3,
        busy_w=column["busy_w"],
        idle_w=column["idle_w"],
        radio_w=column["radio_w"],
        kind=torch.tensor([kinds.index(str(row["name"])) for row in rows]),
        kinds=kinds,
        round_spread=round_spread,
        seed=seed,
        reached=reached,
    )


def _lognormal(n: int, seed: int, deviation: float, draw: int) -> Tensor:
    """A factor for each device; number `draw` of its own sequence, so that it depends on no other device."""
    seeds = hashes(np.array([seed], dtype=np.int64), n)[0].astype(np.int64)
    return torch.from_numpy(np.exp(deviation * normals(seeds, 1, draw)[:, 0]))


def _spread(name: str, value: float) -> float:
    if not 0.0 <= value <= 3.0:
        raise UsageError(f"{name} is {value!r}; give a number from 0 to 3")
    return value


def _mix(text: str) -> list[tuple[tuple[str, ...], str | None, float]]:
    """Classes, link and weight of each entry."""
    entries = []
    for entry in text.split(","):
        what, _, weight = entry.strip().partition(":")
        name, _, link = what.strip().partition("@")
        classes = GROUPS.get(name, (name,) if name in DEVICES else ())
        if not classes:
            raise UsageError(
                f"fleet {text!r} has device {name!r}, which is unknown; use {', '.join((*GROUPS, *DEVICES))}"
            )
        if link and link not in LINKS:
            raise UsageError(f"fleet {text!r} has link {link!r}, which is unknown; use {', '.join(LINKS)}")
        number = _number(weight) if weight else 1.0
        if number is None or number <= 0:
            raise UsageError(
                f"fleet {text!r} gives {name} the share {weight!r}; give numbers above 0, as in phones:40,jetsons:80"
            )
        entries.append((classes, link or None, number))
    return entries


def _device(name: str) -> dict[str, float]:
    return {number: getattr(DEVICES[name], number) for number in _DEVICE_NUMBERS}


def _link(name: str) -> dict[str, float]:
    return {number: getattr(LINKS[name], number) for number in _LINK_NUMBERS}


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def _read(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"fleet {str(path)!r} cannot be read; give a .csv or .json file of devices") from None
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
        return [{key: value for key, value in row.items() if value not in (None, "")} for row in reader]
    try:
        listed = json.loads(text)
    except ValueError as error:
        raise UsageError(f"fleet {str(path)!r} is no JSON ({error}); give a list of objects") from None
    if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
        raise UsageError(
            f"fleet {str(path)!r} holds something else than a list of objects; give one object for each device"
        )
    return listed


def _listed(where: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """One row of a file as numbers by name, and how many devices it stands for."""
    numbers = (*_DEVICE_NUMBERS, *_LINK_NUMBERS)
    known = ("name", "device", "link", "count", *numbers)
    if None in given:
        raise UsageError(f"{where}: it has more entries than the header has columns; give one for each")
    unknown = [column for column in given if column not in known]
    if unknown:
        raise UsageError(f"{where}: column {unknown[0]!r} is unknown; use {', '.join(known)}")
    row: dict[str, Any] = {"name": "own"}
    device, link = given.get("device"), given.get("link")
    if device is not None:
        if str(device) not in DEVICES:
            raise UsageError(f"{where}: device {device!r} is unknown; use {', '.join(DEVICES)}, or give its numbers")
        row |= {"name": device, **_device(device)}
        link = link or DEVICES[device].link
    if link is not None:
        if str(link) not in LINKS:
            raise UsageError(f"{where}: link {link!r} is unknown; use {', '.join(LINKS)}, or give its numbers")
        row |= _link(link)
    for name in numbers:
        value = _number(given.get(name, row.get(name)))
        if name not in given and name not in row:
            raise UsageError(f"{where}: {name} is missing; give it, or a known device and link")
        if value is None or value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
            least = "at least 0" if name in _MAY_BE_ZERO else "above 0"
            raise UsageError(f"{where}: {name} is {given.get(name)!r}; give a number {least}")
        row[name] = value
    row["name"] = str(given.get("name", row["name"]))
    count = _number(given.get("count", 1))
    if count is None or count != int(count) or not 1 <= count <= _MOST_DEVICES:
        raise UsageError(f"{where}: count is {given['count']!r}; give a whole number from 1 to {_MOST_DEVICES}")
    return row, int(count)
