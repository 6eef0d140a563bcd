"""The knobs of compression: each a setting with one value or several, and which of them mean something together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from autotune.errors import UsageError
from autotune.space import Config, SearchSpace
from evaluators.choices import Choice, as_text, knob, one_of, real, truth, whole
from evaluators.federated.compressors import COMPRESSORS
from evaluators.federated.settings import (
    DOWNLOADS,
    FEEDBACKS,
    LOW_DEVIATION,
    METHODS,
    TOPOLOGIES,
    UNBIASED_ONLY,
    Settings,
)

_RATED = tuple(name for name, kind in COMPRESSORS.items() if kind.rated)
_UNBIASED = tuple(name for name, kind in COMPRESSORS.items() if kind.unbiased)
_COMPRESSING = tuple(name for name in COMPRESSORS if name != "none")
_SPARSE = ("top-k", "rand-k", "fedzip")
_QUANTISERS = ("quantise", "nonuniform")
_SHARING = ("quantise", "top-k", "fedzip", LOW_DEVIATION)  # downloads of which a share is kept
FEWEST_BITS = 2 / 32  # of a number that a quantiser sends
# Methods that send updates through `Uploads`, with any feedback, and models through a `Download`.
_SERVED = ("fedavg", "diloco", "fedfix")
_CONTROLLED = ("scallion", "scafcom")

_CHOICES = (
    Choice("method", one_of(*METHODS), f"how devices train together: {', '.join(METHODS)}", "fedavg"),
    Choice(
        "compressor",
        one_of(*COMPRESSORS),
        f"of what devices send: {', '.join(COMPRESSORS)}",
        "none,top-k,rand-k,sign,quantise,nonuniform,fedzip,low-rank",
    ),
    Choice(
        "upload_keep",
        real(0.0, 1.0, above=True),
        "share that the most important device keeps of its update: of elements, bits or numbers of a factor",
        "0.9,0.5,0.25,0.1,0.05,0.02,0.01",
    ),
    Choice(
        "importance_share",
        real(0.0, 1.0, above=True),
        "of that, the share of the least important device; others by rank (Caesar); 1: all alike",
        "1,0.44,0.2",
    ),
    Choice(
        "feedback",
        one_of(*FEEDBACKS),
        f"what becomes of what is dropped: {', '.join(FEEDBACKS)}",
        "none,ef,ef21,econtrol,dgc",
    ),
    Choice(
        "feedback_strength",
        real(0.0, 1.0, above=True),
        "share of the old error that econtrol sends again",
        "0.3,0.1,1",
    ),
    Choice(
        "momentum",
        real(0.0, 0.999),
        "on devices, for dgc and scafcom",
        "0.5,0.9",
    ),
    Choice(
        "warmup_rounds",
        whole(0, 100_000),
        "rounds over which ratios fall from 1",
        "0,5,20",
    ),
    Choice(
        "download",
        one_of(*DOWNLOADS),
        f"how devices are sent the model: {', '.join(DOWNLOADS)}",
        "none,half,quantise,top-k,fedzip,low-deviation",
    ),
    Choice(
        "download_keep",
        real(0.0, 1.0, above=True),
        "share of the model that a device is sent that was there in the round before",
        "0.4,0.2,0.1,0.05",
    ),
    Choice(
        "staleness",
        truth,
        "whether devices that were away longer are sent more of it, up to all (Caesar)",
        "false,true",
    ),
    Choice("local_steps", whole(1, 10_000), "gradient steps of a device in a round", "5,1,2,10,20"),
    Choice("batch", whole(0, 65_536), "samples of a step; 0: all that a device has", "16,8,32"),
    Choice("balanced", truth, "whether slower devices get smaller batches (Caesar)", "false,true"),
    Choice("learning_rate", real(0.0, 1e3, above=True), "of local steps", ""),
    Choice(
        "server_rate",
        real(0.0, 1e3, above=True),
        "of the server's step along the mean update; of gossip, how far devices move to their neighbours",
        "1",
    ),
    Choice(
        "server_momentum",
        real(0.0, 0.999),
        "Nesterov momentum of that step (DiLoCo: 0.9 with a rate of 0.7)",
        "0",
    ),
    Choice(
        "fragments",
        whole(1, 1_000),
        "of the model, one of which is exchanged in a round (Streaming DiLoCo)",
        "1",
    ),
    Choice("topology", one_of(*TOPOLOGIES), f"who is whose neighbour: {', '.join(TOPOLOGIES)}", "ring"),
    Choice("gossip_steps", whole(1, 100), "exchanges with neighbours in a round", "1"),
    Choice(
        "trust",
        real(0.0, 1e3),
        "how much more neighbours with nearer models weigh (Papaya); 0: not at all",
        "0",
    ),
    Choice(
        "interval",
        real(0.0, 100.0, above=True),
        "time between averages over the median device's round",
        "1",
    ),
    Choice(
        "staleness_power",
        real(0.0, 10.0),
        "an update that is s averages old weighs (1 + s) to the minus this",
        "0.5",
    ),
    Choice("directions", whole(1, 1_000_000), "candidates of seeds in all", "1024"),
    Choice("adapter_rank", whole(0, 4_096), "rank of adapters (Fed-SB); 0: all weights are trained", "0"),
    Choice("clusters", whole(2, 255), "values that fedzip tells apart", "15"),
)
CHOICES: Mapping[str, Choice] = MappingProxyType({choice.name: choice for choice in _CHOICES})


Condition = Mapping[str, tuple[Any, ...]]
"""Values that settings must have, all of them."""

# When a setting means anything: in any of these cases; settings that are not named always do.
_WHEN: Mapping[str, tuple[Condition, ...]] = MappingProxyType({
    "compressor": ({"method": tuple(name for name in METHODS if name != "seeds")},),
    "upload_keep": ({"compressor": _RATED},),
    "importance_share": ({"compressor": _RATED, "method": (*_SERVED, *_CONTROLLED)},),
    "feedback": ({"compressor": _COMPRESSING, "method": _SERVED},),
    "feedback_strength": ({"feedback": ("econtrol",)},),
    "momentum": ({"feedback": ("dgc",)}, {"method": ("scafcom",)}),
    "warmup_rounds": ({"compressor": _COMPRESSING, "method": (*_SERVED, *_CONTROLLED, "gossip")},),
    "download": ({"method": (*_SERVED, *_CONTROLLED)},),
    "download_keep": ({"download": _SHARING},),
    "staleness": ({"download": ("top-k", "fedzip", LOW_DEVIATION)},),
    "server_rate": ({"method": tuple(name for name in METHODS if name != "locodl")},),
    "server_momentum": ({"method": _SERVED},),
    "fragments": ({"method": ("diloco",)},),
    "topology": ({"method": ("gossip",)},),
    "gossip_steps": ({"method": ("gossip",)},),
    "trust": ({"method": ("gossip",)},),
    "interval": ({"method": ("fedfix",)},),
    "staleness_power": ({"method": ("fedfix",)},),
    "directions": ({"method": ("seeds",)},),
    "clusters": ({"compressor": ("fedzip",)},),
})  # fmt: skip

# What does not go together: (a case, a setting, what it must be in that case, as a condition on a value).
_RULES: tuple[tuple[str, Condition, str, Callable[[Any], bool]], ...] = (
    ("a quantiser sends at least 2 bits", {"compressor": _QUANTISERS}, "upload_keep", lambda keep: keep >= FEWEST_BITS),
    ("a quantiser sends at least 2 bits", {"download": _QUANTISERS}, "download_keep", lambda keep: keep >= FEWEST_BITS),
    (
        "controlled averaging and LoCoDL need an unbiased compressor",
        {"method": UNBIASED_ONLY},
        "compressor",
        lambda name: name in _UNBIASED,
    ),
    ("fragments are not whole models", {"method": ("diloco",)}, "download", lambda name: name != LOW_DEVIATION),
    ("masks need something that is not sent", {"feedback": ("dgc",)}, "compressor", lambda name: name in _SPARSE),
)


def space_of(settings: Mapping[str, tuple[Any, ...]]) -> SearchSpace:
    """The search space of settings that have several values. Conditions on settings that have one are settled here.

    Raises:
        UsageError: where nothing is left to search, or fixed settings do not go together.
    """
    parameters, active = [], _active(settings)
    for name, values in active.items():
        if len(values) > 1:
            parameters.append(knob(CHOICES[name], values, _condition(name, active) or None))
    if not parameters:
        raise UsageError(
            "every setting has one value; give one of them several, such as --set upload_keep=0.5,0.1,0.01"
        )
    return SearchSpace(parameters, constraints=_constraints(active).values())


def refuse_idle(settings: Mapping[str, tuple[Any, ...]], names: Iterable[str]) -> None:
    """Refuse settings that a user gave and that mean nothing in any configuration.

    One that says what is so anyway, such as ``compressor=none`` where nothing is compressed, may stay.

    Raises:
        UsageError: naming the first.
    """
    active, usual = _active(settings), Settings()
    for name in names:
        if name not in active and settings[name] != (getattr(usual, name),):
            needs = " or ".join(_told(case) for case in _WHEN[name])
            values = ",".join(str(as_text(value)) for value in settings[name])
            raise UsageError(f"{name} {values} means nothing with the other settings; leave it out, or set {needs}")


def fixed_of(settings: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Settings that have one value, which are not searched."""
    return {name: values[0] for name, values in settings.items() if len(values) == 1}


def meaningful(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the values of one configuration, those that mean something beside the others."""
    usual = Settings()
    found = {name: value for name, value in values.items() if name not in CHOICES}
    for name in CHOICES:
        cases = _WHEN.get(name, ({},))
        if name in values and any(
            all(found.get(other, getattr(usual, other)) in allowed for other, allowed in case.items()) for case in cases
        ):
            found[name] = values[name]
    return found


def _active(settings: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """Settings that mean something in some configuration."""
    active: dict[str, tuple[Any, ...]] = {}
    for name, values in settings.items():
        if _cases(name, settings, active):
            active[name] = values
    return active


def _cases(name: str, settings: Mapping[str, tuple[Any, ...]], active: Mapping[str, Any]) -> list[Condition]:
    """Cases in which a setting means something and that can come about."""
    return [case for case in _WHEN.get(name, ({},)) if _possible(case, settings, active)]


def _told(case: Condition) -> str:
    """A case as options."""
    return " with ".join(f"{name}={','.join(map(str, allowed))}" for name, allowed in case.items())


def _possible(case: Condition, settings: Mapping[str, tuple[Any, ...]], active: Mapping[str, Any]) -> bool:
    """Whether a case can come about: each of its settings is active, and has one of the values."""
    return all(name in active and set(settings[name]) & set(allowed) for name, allowed in case.items())


def _condition(name: str, active: Mapping[str, tuple[Any, ...]]) -> str:
    """When a setting means something, as an expression over knobs; empty for always."""
    texts = [_text(case, active) for case in _cases(name, active, active)]
    return "" if "" in texts else " or ".join(texts)


def _text(case: Condition, active: Mapping[str, tuple[Any, ...]]) -> str:
    """A case as an expression over knobs; empty where fixed settings make it true."""
    parts = []
    for name, allowed in case.items():
        left = [value for value in active[name] if value in allowed]
        if len(left) < len(active[name]):
            parts.append(f"{name} in ({', '.join(map(repr, left))},)")
        elif inner := _condition(name, active):
            # A setting that has no other value may still mean nothing itself.
            parts.append(f"({inner})")
    return " and ".join(parts)


def _constraints(active: Mapping[str, tuple[Any, ...]]) -> dict[str, str]:
    """Rules as expressions over knobs, by what they say."""
    found: dict[str, str] = {}
    for told, case, name, allowed in _RULES:
        if name not in active or not _possible(case, active, active):
            continue
        good = [value for value in active[name] if allowed(value)]
        if len(good) == len(active[name]):
            continue
        outside = " or ".join(
            f"{other} not in ({', '.join(repr(v) for v in active[other] if v in values)},)"
            if len(active[other]) > 1
            else f"not ({idle})"
            for other, values in case.items()
            if len(active[other]) > 1 or (idle := _condition(other, active))
        )
        inside = f"{name} in ({', '.join(map(repr, good))},)" if good and len(active[name]) > 1 else ""
        rule = " or ".join(part for part in (outside, inside) if part)
        if not rule:
            values = ", ".join(str(value) for value in active[name])
            raise UsageError(f"{name} {values} does not go with the other settings: {told}")
        found[f"{told} ({name})"] = rule
    return found


def usual_texts(learning_rate: float, batch: int, local_steps: int) -> dict[str, str]:
    """Values of every setting unless the user says otherwise, around those that suit the task."""
    texts = {name: choice.usual for name, choice in CHOICES.items()}
    texts["learning_rate"] = ",".join(f"{learning_rate * factor:.4g}" for factor in (1.0, 0.5, 2.0))
    texts["batch"] = ",".join(map(str, (batch, max(1, batch // 2), 2 * batch)))
    steps = dict.fromkeys((local_steps, 1, 2, 5, 10, 20))
    texts["local_steps"] = ",".join(map(str, steps))
    return texts


def plain(settings: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Federated averaging without compression: what everything is compared with. Other settings have their first values."""
    return {
        "method": "fedavg",
        "compressor": "none",
        "download": "none",
        **{name: settings[name][0] for name in ("local_steps", "batch", "learning_rate")},
    }


def default_of(settings: Mapping[str, tuple[Any, ...]], space: SearchSpace) -> Config:
    """The configuration of the space that is most like federated averaging without compression.

    Settings have their first values, without compression and rules where the settings leave that open.
    """
    return config_of(settings, space, plain(settings))


def config_of(settings: Mapping[str, tuple[Any, ...]], space: SearchSpace, wanted: Mapping[str, Any]) -> Config:
    """A configuration of the space: values as `wanted` where the space has them, else the first values of settings."""
    names = {parameter.name for parameter in space.parameters}
    values = {
        name: wanted[name] if wanted.get(name) in settings[name] else settings[name][0]
        for name in settings
        if name in names
    }
    return space.repair(values)
