"""Which parameters matter: PED-ANOVA and fANOVA, by Optuna, and SHAP values of a tree ensemble."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from autotune.plots.coordinates import Coordinate, Floats, chosen_metric, losses, measured, varied
from autotune.plots.style import BLUE, GREEN, ORANGE, laid_out, literal, metric_label
from autotune.study_view import StudyView
from autotune.viewing import NothingToShowError

FEWEST = 8  # trials, below which nothing can be told from chance
_PED_MOST = 2000  # trials that PED-ANOVA looks at
_ORDER_MOST = 1000  # that it looks at where it only puts axes in order
_TREES_MOST = 400  # trials that forests are grown from
_EXPLAINED = 200  # trials whose SHAP values are computed
_TREES = 24
_DEPTH = 8
_STEPS = 32  # distinct values, up to which an ordered axis is one of steps
_BAR_PX = 17


@dataclass(frozen=True)
class Importances:
    """Shares of importance by axis, which sum to 1, by one method.

    Attributes:
        trials: that they were computed from.
    """

    method: str
    trials: int
    shares: Mapping[str, float]


def importance(view: StudyView, *, metric: str | None = None, top: int = 15) -> go.Figure:
    """The importance of each parameter for a metric by three methods beside each other, each summing to 1.

    PED-ANOVA (Watanabe et al. 2023) tells what sets the best tenth of the trials apart; fANOVA (Hutter et al. 2014) how much of
    the variance over the whole space each parameter explains alone; SHAP (Lundberg and Lee 2017) how far each moves the
    predictions of a tree ensemble. Long vectors are represented by their mean and spread; where a parameter is inactive, the
    median of its active values stands in.

    Args:
        metric: which one; the first objective when None.
        top: how many axes to show, the most important by the mean of the methods.
    """
    name = chosen_metric(view, metric)
    found = importances(view, name)
    if not found:
        raise NothingToShowError(
            f"no method could tell importances for {name} from the trials of study {view.study.name!r}"
        )
    means = _means(found)
    shown = sorted(means, key=lambda axis: -means[axis])[:top][::-1]
    figure = go.Figure()
    colours = {"PED-ANOVA": BLUE, "fANOVA": ORANGE, "SHAP": GREEN}
    for one in reversed(found):
        figure.add_bar(
            name=f"{one.method}, from {one.trials} trials",
            y=[literal(axis) for axis in shown],
            x=[one.shares.get(axis, 0.0) for axis in shown],
            orientation="h",
            marker_color=colours[one.method],
            hovertemplate=f"%{{y}}: %{{x:.1%}} by {one.method}<extra></extra>",
            showlegend=True,
        )
    figure.update_layout(barmode="group", bargap=0.25, legend_traceorder="reversed")
    figure.update_xaxes(
        title_text=f"share of the importance for {metric_label(name)}", tickformat=".0%", rangemode="tozero"
    )
    hidden = len(means) - len(shown)
    title = f"the first {len(shown)} of {len(means)} parameters" if hidden > 0 else ""
    return laid_out(figure, 70 + _BAR_PX * (len(found) + 1) * len(shown), title)


def importances(view: StudyView, metric: str) -> list[Importances]:
    """By each method that can be computed.

    Raises:
        NothingToShowError: with too few trials, where all have the same value, or where none differs in a parameter.
    """
    trials = measured(view, metric)
    if len(trials) < FEWEST:
        raise NothingToShowError(
            f"study {view.study.name!r} has {len(trials)} trials with a number for {metric}; importance needs {FEWEST}"
        )
    target = losses(view, trials, metric)
    if np.ptp(np.unique(target)) == 0.0:
        raise NothingToShowError(
            f"all {len(trials)} trials have the same {metric}, so no parameter can be important for it"
        )
    axes = varied(view.study, trials)
    methods: tuple[tuple[str, int, Callable[[Sequence[Coordinate], Floats], Floats]], ...] = (
        ("PED-ANOVA", _PED_MOST, _ped_anova),
        ("fANOVA", _TREES_MOST, _fanova),
        ("SHAP", _TREES_MOST, _shap),
    )
    found = []
    for method, most, compute in methods:
        some = np.unique(np.linspace(0, len(trials) - 1, min(most, len(trials))).astype(int))
        kept = [axis for axis in (a.at(some) for a in axes) if axis.is_varied]
        shares = _shares(compute, kept, target[some])
        if shares is not None:
            found.append(Importances(method, len(some), {a.name: float(v) for a, v in zip(kept, shares, strict=True)}))
    return found


def by_importance(axes: Sequence[Coordinate], target: Floats) -> list[Coordinate]:
    """Axes from the most important on by PED-ANOVA; as they are where that cannot be computed."""
    if len(target) < FEWEST or len(axes) < 2:
        return list(axes)
    some = np.unique(np.linspace(0, len(target) - 1, min(_ORDER_MOST, len(target))).astype(int))
    shares = _shares(_ped_anova, [axis.at(some) for axis in axes], target[some])
    if shares is None:
        return list(axes)
    return [axes[i] for i in np.argsort(-shares, kind="stable")]


def _means(found: Sequence[Importances]) -> dict[str, float]:
    names = dict.fromkeys(name for one in found for name in one.shares)
    return {name: sum(one.shares.get(name, 0.0) for one in found) / len(found) for name in names}


def _shares(
    compute: Callable[[Sequence[Coordinate], Floats], Floats], axes: Sequence[Coordinate], target: Floats
) -> Floats | None:
    """Importances scaled to sum to 1; None where the method has nothing to say, or is not installed."""
    if not axes or np.ptp(np.unique(target)) == 0.0:
        return None
    # Ranks keep outliers and numbers near the largest from deciding alone; ties share their mean rank.
    _, places, counts = np.unique(target, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[places]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            raw = compute(axes, ranks)
    except (ValueError, RuntimeError, ImportError):  # what these libraries raise for data that they cannot use
        return None
    raw = np.where(np.isfinite(raw), np.maximum(raw, 0.0), 0.0)
    total = float(raw.sum())
    return raw / total if total > 0.0 else None


def _ped_anova(axes: Sequence[Coordinate], target: Floats) -> Floats:
    """Of each axis among the trials in which it is active, times their share: it looks at one parameter at a time."""
    from optuna.importance import PedAnovaImportanceEvaluator  # noqa: PLC0415 - takes longer to import than most pictures

    together: dict[bytes, list[int]] = {}
    for place, axis in enumerate(axes):
        together.setdefault(np.isfinite(axis.values).tobytes(), []).append(place)
    told = np.zeros(len(axes))
    for mask, places in together.items():
        active = np.frombuffer(mask, dtype=bool)
        chosen = [axes[place].at(active) for place in places]
        if active.sum() >= FEWEST and np.ptp(target[active]) > 0.0:
            told[places] = active.mean() * _by_optuna(PedAnovaImportanceEvaluator(), chosen, target[active])
    return told


def _fanova(axes: Sequence[Coordinate], target: Floats) -> Floats:
    from optuna.importance import FanovaImportanceEvaluator  # noqa: PLC0415

    return _by_optuna(FanovaImportanceEvaluator(n_trees=_TREES, max_depth=_DEPTH, seed=0), axes, target)


def _by_optuna(evaluator: object, axes: Sequence[Coordinate], target: Floats) -> Floats:
    import optuna  # noqa: PLC0415

    spread: dict[str, optuna.distributions.BaseDistribution] = {}
    columns: dict[str, list[float | int]] = {}
    for place, axis in enumerate(axes):
        key = f"p{place}"
        unique, codes = np.unique(axis.filled(), return_inverse=True)
        if axis.ordered and len(unique) > _STEPS:
            spread[key] = optuna.distributions.FloatDistribution(0.0, 1.0)
            columns[key] = np.clip(_finite(axis), 0.0, 1.0).tolist()
            continue
        top = len(unique) - 1
        spread[key] = (
            optuna.distributions.IntDistribution(0, top)
            if axis.ordered
            else optuna.distributions.CategoricalDistribution(tuple(range(top + 1)))
        )
        columns[key] = codes.tolist()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="minimize")
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={key: column[i] for key, column in columns.items()}, distributions=spread, value=float(value)
                )
                for i, value in enumerate(target)
            ]
        )
        told = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(spread), normalize=False)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return np.array([told.get(key, 0.0) for key in spread], dtype=np.float64)


def _finite(axis: Coordinate) -> Floats:
    scaled = axis.scaled()
    active = scaled[np.isfinite(scaled)]
    return np.where(np.isfinite(scaled), scaled, float(np.median(active)) if len(active) else 0.5)


def _shap(axes: Sequence[Coordinate], target: Floats) -> Floats:
    import shap  # noqa: PLC0415
    from sklearn.ensemble import ExtraTreesRegressor  # noqa: PLC0415

    columns: list[Floats] = []
    owners: list[int] = []
    for place, axis in enumerate(axes):
        if axis.ticks is None or axis.ordered:
            columns.append(_finite(axis))
            owners.append(place)
            continue
        values = axis.filled()
        for choice in np.unique(values):
            columns.append((values == choice).astype(np.float64))
            owners.append(place)
    rows = np.stack(columns, axis=1)
    forest = ExtraTreesRegressor(_TREES, max_depth=_DEPTH, min_samples_leaf=2, random_state=0, n_jobs=1)
    forest.fit(rows, (target - target.mean()) / target.std())
    some = np.unique(np.linspace(0, len(rows) - 1, min(_EXPLAINED, len(rows))).astype(int))
    told = np.asarray(shap.TreeExplainer(forest).shap_values(rows[some], check_additivity=False))
    # The indicator columns of one choice belong together: their values are added before magnitudes are taken.
    joined = np.zeros((len(some), len(axes)))
    np.add.at(joined.T, owners, told.T)
    return np.asarray(np.abs(joined).mean(axis=0), dtype=np.float64)
