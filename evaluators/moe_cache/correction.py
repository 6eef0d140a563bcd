"""What real runs say of the costs that predictions rest on: a scale and an offset for each mechanism.

A hardware profile times a transfer, an expert and a layer's dense part alone. In a run they follow each other, share memory
and processor, and something has to decide what comes next. Each mechanism's own clock in a few runs tells by how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError
from evaluators.moe_cache.plan import Costs, Floats

_TABLES = {"link": 3, "expert": 5, "dense": 4, "handling": 5}  # of `Clocks`, and their columns
_ENOUGH = 0.02  # of all parts, to tell a line of those alone
CLOCKS = "clocks"  # the note of a real trial that holds what its clocks showed


@dataclass(frozen=True)
class Line:
    """Real ms are ``offset_ms + scale * predicted ms``."""

    scale: float = 1.0
    offset_ms: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 < self.scale < math.inf and math.isfinite(self.offset_ms)):
            raise UsageError(f"a correction of scale {self.scale} and offset {self.offset_ms} ms is none")

    def __call__(self, ms: npt.ArrayLike) -> Floats:
        return np.maximum(self.offset_ms + self.scale * np.asarray(ms, dtype=np.float64), 1e-6)


@dataclass(frozen=True, eq=False)
class Clocks:
    """What a run's clocks showed.

    Attributes:
        link: ``(n, 3)`` bytes of a transfer, its mean ms, how many.
        expert: ``(n, 5)`` tokens of an expert, the share of its rows that were computed together, whether the link was at work
            when that began, mean ms, how many. The ms are NaN where timing each would have serialised them (CUDA).
        dense: ``(n, 4)`` tokens of a pass, whether the link was at work, mean ms of one layer's dense part, how many.
        handling: ``(n, 5)`` layers of a pass, experts or rests of experts that it brought and used, how many of these were
            rests, mean ms that it took beyond the clocks above and waiting, how many passes.
    """

    link: Floats
    expert: Floats
    dense: Floats
    handling: Floats

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {name: _rows(getattr(self, name)) for name in _TABLES}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Clocks:
        """From `to_dict`.

        Raises:
            UsageError: where a table is missing, as in runs by an older version.
        """
        if missing := [name for name in _TABLES if name not in document]:
            raise UsageError(
                f"a run kept no clocks of {', '.join(missing)}, as versions before this one did not; validate under another "
                "name with --study NAME"
            )
        return cls(**{name: _table_of(document[name], width) for name, width in _TABLES.items()})


@dataclass(frozen=True)
class Correction:
    """The lines of all mechanisms.

    Attributes:
        link: of a transfer.
        expert: of an expert, or a segment of one, on the fast tier.
        dense: of a layer's dense part.
        expert_busy, dense_busy: how many times as long they take while the link is at work.
        layer_ms, load_ms, rest_load_ms: what every layer, and every expert and every rest of one that was brought, takes for
            deciding and handing over, which no profile knows.
        runs: real runs that it rests on.
    """

    link: Line = Line()
    expert: Line = Line()
    dense: Line = Line()
    layer_ms: float = 0.0
    load_ms: float = 0.0
    rest_load_ms: float = 0.0
    expert_busy: float = 1.0
    dense_busy: float = 1.0
    runs: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Correction:
        """From `to_dict`.

        Raises:
            UsageError: where it is something else.
        """
        try:
            lines = {name: Line(**document[name]) for name in ("link", "expert", "dense")}
            return cls(
                **lines,
                layer_ms=float(document["layer_ms"]),
                load_ms=float(document["load_ms"]),
                rest_load_ms=float(document["rest_load_ms"]),
                expert_busy=float(document["expert_busy"]),
                dense_busy=float(document["dense_busy"]),
                runs=int(document["runs"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"this is no correction ({type(error).__name__}: {error}); make one with: autotune validate moe-cache"
            ) from None

    @classmethod
    def fit(cls, runs: Sequence[Clocks], costs: Costs) -> Correction:
        """The correction that these runs tell of these costs; no correction without a run."""
        if not runs:
            return cls()
        link, expert, dense, handling = (np.concatenate([getattr(run, name) for run in runs]) for name in _TABLES)
        whole_ms, layer_ms = costs.expert_ms.mean(axis=0), costs.dense_ms.mean(axis=0)
        expected = whole_ms[expert[:, 0].astype(int)] * expert[:, 1]
        experts_busy = 1.0
        if np.isnan(expert[:, 3]).any():
            # Without a clock of its own, all that is beyond the other clocks is the experts'.
            total = float((expected * expert[:, 4]).sum())
            experts = Line(max(1e-6, float((handling[:, 3] * handling[:, 4]).sum()) / total)) if total > 0 else Line()
            layer, load, rest = 0.0, 0.0, 0.0
        else:
            experts, experts_busy = _line_and_factor(expected, expert[:, 2] > 0, expert[:, 3], expert[:, 4])
            layer, load, rest = _handling(handling)
        denses, dense_busy = _line_and_factor(
            layer_ms[dense[:, 0].astype(int)], dense[:, 1] > 0, dense[:, 2], dense[:, 3]
        )
        return cls(
            link=fit_line(costs.transfer_ms(link[:, 0]), link[:, 1], link[:, 2]),
            expert=experts,
            dense=denses,
            layer_ms=layer,
            load_ms=load,
            rest_load_ms=rest,
            expert_busy=experts_busy,
            dense_busy=dense_busy,
            runs=len(runs),
        )

    def of(self, costs: Costs) -> Costs:
        """Costs as a run will have them. No tokens still cost nothing, and a longer transfer is never cheaper."""
        return replace(
            costs,
            link_ms=np.maximum.accumulate(self.link(costs.link_ms)),
            expert_ms=_table(self.expert, costs.expert_ms),
            dense_ms=_table(self.dense, costs.dense_ms),
            layer_ms=self.layer_ms,
            load_ms=self.load_ms,
            rest_load_ms=self.rest_load_ms,
            part_ms=max(0.0, self.expert.offset_ms),
            expert_busy=self.expert_busy,
            dense_busy=self.dense_busy,
        )


def _line_and_factor(
    predicted_ms: Floats, busy: npt.NDArray[np.bool_], real_ms: Floats, count: Floats
) -> tuple[Line, float]:
    """The line of what began while the link was idle, and how many times as long it took while the link was at work.

    One line and the factor 1 where either is too rare to tell.
    """
    rare = count.sum() * _ENOUGH
    if count[~busy].sum() <= rare or count[busy].sum() <= rare:
        return fit_line(predicted_ms, real_ms, count), 1.0
    line = fit_line(predicted_ms[~busy], real_ms[~busy], count[~busy])
    return line, float((real_ms * count)[busy].sum() / (line(predicted_ms) * count)[busy].sum())


def _handling(table: Floats) -> tuple[float, float, float]:
    """ms for each layer, and each expert and each rest that was brought: least squares over all passes."""
    from scipy import optimize  # noqa: PLC0415 - slow to import

    layers, loads, rests, ms, count = table.T
    each = np.sqrt(count)
    found, _ = optimize.nnls(
        np.column_stack((layers, loads - rests, rests)) * each[:, None], np.maximum(ms, 0.0) * each
    )
    return float(found[0]), float(found[1]), float(found[2])


def fit_line(predicted_ms: Floats, real_ms: Floats, count: Floats) -> Line:
    """Least squares of the relative error; a scale alone where sizes hardly differ, or where the line would fall.

    Relative, because a mechanism's small uses are as many as its large ones and an absolute fit would serve only these.
    """
    used = (count > 0) & (real_ms > 0) & (predicted_ms > 0)
    x, y, w = predicted_ms[used], real_ms[used], count[used]
    if not len(x):
        return Line()
    weight = w / y**2
    if x.max() > 1.2 * x.min():
        mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
        scale = np.average((x - mean_x) * (y - mean_y), weights=weight) / np.average((x - mean_x) ** 2, weights=weight)
        offset = mean_y - scale * mean_x
        if scale > 0.0 and offset + scale * x.min() > 0.0:
            return Line(float(scale), float(offset))
    return Line(float((w * y).sum() / (w * x).sum()))


def means(keys: npt.ArrayLike, values: npt.ArrayLike) -> Floats:
    """One row for each distinct row of `keys` ``(n, m)``: the row, the mean of its values, how many."""
    rows, number = np.asarray(keys, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if not len(rows):
        return np.empty((0, rows.shape[1] + 2))
    at, which, count = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    total = np.bincount(which.reshape(-1), weights=number, minlength=len(at))
    return np.column_stack((at, total / count, count))


def _table_of(rows: Sequence[Sequence[float | None]], width: int) -> Floats:
    values = [[math.nan if v is None else v for v in row] for row in rows]
    return np.array(values, dtype=np.float64).reshape(-1, width)


def _rows(table: Floats) -> list[list[float | None]]:
    return [[None if math.isnan(v) else float(f"{v:.12g}") for v in row] for row in table]


def _table(line: Line, table: Floats) -> Floats:
    found = line(table)
    found[:, 0] = 0.0
    return found
