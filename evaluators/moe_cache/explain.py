"""Where the time of a token goes, and what every layer does with its budget, told from stored trials alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autotune.explaining import Section
from autotune.store.records import TrialRecord
from autotune.text import NOTHING, bar, number

_LABEL, _BAR = 34, 8  # columns

# The parts of `token_latency_ms`, which they add up to.
PARTS = {
    "dense_ms": "dense part (attention, router)",
    "expert_compute_ms": "expert compute on the fast tier",
    "exposed_demand_ms": "waiting for experts not predicted",
    "exposed_late_ms": "waiting for late prefetches",
    "cpu_wait_ms": "waiting for experts on the CPU",
    "overhead_ms": "deciding and handing over",
}


@dataclass(frozen=True)
class LayerPicture:
    """One layer under a configuration; None where the trial did not tell.

    Attributes:
        slots, experts: experts that its cache holds, and that there are.
        theta: share of an expert in a slot.
        hit_rate: of the look-ups while generating.
        exposed_ms: mean time per token that compute waited for the link.
    """

    layer: int
    budget_mib: float
    theta: float
    slots: int | None
    experts: int | None
    hit_rate: float | None
    exposed_ms: float | None


def explain(trials: Mapping[str, TrialRecord], *, unicode: bool) -> tuple[Section, ...]:
    """The sections of `autotune show`: ``time`` and, for the first trial, ``layers``."""
    if not trials:
        return ()
    pictures = {label: layers_of(trial) for label, trial in trials.items()}
    return (_time_section(trials, unicode), _layer_section(trials, pictures, unicode))


def breakdown(trial: TrialRecord) -> dict[str, float] | None:
    """Parts of the token latency in ms, which add up to it; None where the trial did not store them.

    ``exposed_demand_ms`` is time that compute waited for the link to bring experts that nothing had predicted,
    ``exposed_late_ms`` for experts whose prefetch had not ended, or not begun, when they were needed.
    """
    values = trial.values
    needed = ("dense_ms", "expert_compute_ms", "exposed_transfer_ms", "exposed_late_ms", "cpu_wait_ms")
    if any(name not in values for name in needed):
        return None
    demand = values["exposed_transfer_ms"] - values["exposed_late_ms"]
    # What takes no time in a timeline is not among the metrics of trials of a version before.
    known = {**values, "exposed_demand_ms": demand, "overhead_ms": values.get("overhead_ms", 0.0)}
    return {name: known[name] for name in PARTS}


def layers_of(trial: TrialRecord) -> list[LayerPicture]:
    """Every layer of a trial's configuration."""
    config, notes = trial.config, trial.notes
    length = len(config["budget_mib"])

    def column(name: str) -> list[Any]:
        found = notes.get(name)
        return list(found) if isinstance(found, (list, tuple)) and len(found) == length else [None] * length

    rows = zip(
        config["budget_mib"],
        config["theta"],
        column("slots"),
        column("layer_hit_rate"),
        column("layer_exposed_ms"),
        strict=True,
    )
    experts = notes.get("experts_per_layer")
    return [
        LayerPicture(layer, budget, theta, slots, experts, hits, exposed)
        for layer, (budget, theta, slots, hits, exposed) in enumerate(rows)
    ]


def _time_section(trials: Mapping[str, TrialRecord], unicode: bool) -> Section:
    parts = {label: breakdown(trial) for label, trial in trials.items()}
    data = {
        label: {
            "trial": trial.number,
            "token_latency_ms": trial.values.get("token_latency_ms"),
            "parts": parts[label],
            **{name: trial.values.get(name) for name in ("moved_mib", "wasted_mib", "prefetch_precision")},
        }
        for label, trial in trials.items()
    }
    lines = [f"{'':{_LABEL}}" + "".join(f"{_short(label):>14}{'':{_BAR}}" for label in list(trials)[:2]).rstrip()]
    shown = [(parts[label], trials[label].values.get("token_latency_ms")) for label in list(trials)[:2]]
    if any(found is None for found, _ in shown):
        lines = ["these trials did not store the parts of their latency; measure them again to see them"]
    else:
        shares = [p for p, _ in shown if p]
        for name, title in PARTS.items():
            if name == "overhead_ms" and not any(p[name] for p in shares):
                continue  # of a timeline, unless it was corrected by real runs
            lines.append(f"{title:{_LABEL}}" + "".join(_part(p, name, t, unicode) for p, t in shown if p).rstrip())
        lines.append(
            f"{'token latency':{_LABEL}}" + "".join(f"{number(t):>8}{'':{6 + _BAR}}" for _, t in shown).rstrip()
        )
    lines += [f"{_short(label)}: {_moved(trial)}" for label, trial in trials.items()]
    sequences = max(map(_sequences, trials.values()))
    whose = "of a token" if sequences == 1 else f"of a pass with a token of each of {sequences} sequences"
    return Section("time", f"where the time {whose} goes (ms)", tuple(lines), data)


def _part(parts: Mapping[str, float], name: str, total: float | None, unicode: bool) -> str:
    share = parts[name] / total if total else 0.0
    return f"{number(parts[name]):>8}{100 * share:4.0f} % {bar(share, 1.0, _BAR - 1, unicode=unicode)}"


def _sequences(trial: TrialRecord) -> int:
    """That are decoded together; trials of older versions did not store it."""
    return int(trial.notes.get("sequences", 1))


def _moved(trial: TrialRecord) -> str:
    values = trial.values
    told = f"moved {number(values.get('moved_mib'))} MiB per {'token' if _sequences(trial) == 1 else 'pass'}"
    precision = values.get("prefetch_precision")
    if precision is None:
        return f"{told}, nothing prefetched"
    wasted = number(values.get("wasted_mib"))
    return f"{told}, {wasted} MiB in vain; {100 * precision:.0f} % of prefetches used"


def _layer_section(
    trials: Mapping[str, TrialRecord], pictures: Mapping[str, list[LayerPicture]], unicode: bool
) -> Section:
    label = next(iter(trials))
    layers, before = pictures[label], pictures.get("default") if label != "default" else None
    most_mib = max(p.budget_mib for p in layers)
    most_ms = max((p.exposed_ms or 0.0 for p in layers), default=0.0)
    was = f"{'was':>6}" if before else ""
    lines = [f"layer  budget MiB{'':9}slots  theta  hit rate{'':6}{was}  wait ms"]
    for index, p in enumerate(layers):
        old = f"{_rate(before[index].hit_rate):>6}" if before else ""
        lines.append(
            f"{p.layer:5}{number(p.budget_mib):>9} {bar(p.budget_mib, most_mib, 8, unicode=unicode)}"
            f"{_slots(p):>8}{p.theta:7.2f}  {_rate(p.hit_rate):>5} {bar(p.hit_rate, 1.0, 8, unicode=unicode)}{old}"
            f"{number(p.exposed_ms):>9} {bar(p.exposed_ms, most_ms, 8, unicode=unicode)}".rstrip()
        )
    title = f"layers, {_short(label)} (trial {trials[label].number})" + (", was: default's hit rate" if before else "")
    return Section(
        "layers", title, tuple(lines), {name: [asdict(p) for p in found] for name, found in pictures.items()}
    )


def _short(label: str) -> str:
    """``best in token_latency_ms`` without its unit's tail, so that it fits above a column."""
    return label if len(label) <= 13 else label.removeprefix("best in ")[:13]


def _slots(picture: LayerPicture) -> str:
    if picture.slots is None:
        return NOTHING
    return f"{picture.slots}" + (f"/{picture.experts}" if picture.experts is not None else "")


def _rate(rate: float | None) -> str:
    return NOTHING if rate is None else f"{rate:.3f}"
