"""Flower: the run config of an app, and the rules by which clients differ.

The file is one that `flwr run --run-config FILE.toml` takes, whose keys have to be in the app's `pyproject.toml` too, under
``tool.flwr.app.config``, where its lines can be pasted as they are: `flwr/common/config.py` of Flower 1.41. Flower makes nested
names flat, so that `context.run_config["settings.batch"]` is one of them. `fraction-train` is the argument `fraction_train` of
the strategies of `flwr.serverapp.strategy`. Names of settings are those of `autotune.integrations.flower`, whose `tuned` sends
them to clients; where clients differ, a Python file beside the config has the rule for it.
"""

from __future__ import annotations

import json
from typing import Any

from autotune.errors import UsageError
from autotune.exporting import Exported
from evaluators.federated.exporters.subject import Chosen, commented

NAME = "flower"
SUMMARY = "the run config of a Flower app, with a Python file of rules where clients differ"

# Settings that a server alone reads.
_SERVER = ("method", "server_rate", "server_momentum", "fragments", "interval", "staleness_power")
_OF_ALL = ("locodl",)  # methods in which everyone takes part

_RULE_HEAD = '''"""Settings of one client in one round, for a Flower app; written by autotune.

    strategy = tuned(FedAvg(fraction_train=...), SETTINGS, per_client=per_client)

with `tuned` of autotune.integrations.flower. Clients find them in the config of their messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotune.integrations.flower import {names}

SETTINGS = {settings}


def per_client(config: Mapping[str, Any], round_: int, client: ClientState) -> dict[str, Any]:
    """The settings of a client, as `tuned` asks for them."""
    settings = dict(config)
'''
_STALENESS = """    settings["download_keep"] = by_staleness(client, round_, config["download_keep"])
"""
_RANK = """    settings["upload_keep"] = by_rank(client, importance, config["upload_keep"], config["importance_share"])
"""
_WARM_UP = """    if round_ <= config["warmup_rounds"]:
        settings["upload_keep"] **= round_ / (config["warmup_rounds"] + 1)
"""
_SPEED = """    settings["batch"] = by_speed(client, config["batch"])
"""
_IMPORTANCE = '''

def importance(client: ClientState) -> float | None:
    """The metric `importance` that clients may report of training, else their examples."""
    return client.metrics.get("importance", client.examples)
'''


def write(chosen: Chosen, stem: str) -> Exported:
    """The run config; rules beside it where there are any.

    Raises:
        UsageError: for a method without a server.
    """
    settings = chosen.settings
    if settings.method == "gossip":
        raise UsageError(
            "a Flower app has a server, and this is method=gossip, which has none; export a trial of another method, or as "
            "plan-json"
        )
    rules = _rules(chosen)
    beside = f"{stem}_rules.py"
    cannot = limits(chosen)
    notes = [
        *chosen.told(),
        f"flwr run APP --run-config {stem}.toml, with the same names under [tool.flwr.app.config] of its pyproject.toml",
        *(["server_rate is server_learning_rate of FedAvgM"] if chosen.settings.server_rate != 1.0 else []),
        *([f"rules by which clients differ: {beside}"] if rules else []),
    ]
    comment = "".join(f"# {line}\n" for line in commented("Run config of a Flower app", notes, cannot))
    lines = "".join(f"{name} = {_toml(value)}\n" for name, value in document(chosen).items())
    return Exported(comment + lines, ".toml", cannot, {beside: rules.encode()} if rules else {})


def document(chosen: Chosen) -> dict[str, Any]:
    """Values by their flat names."""
    job, settings = chosen.subject, chosen.settings
    share = 1.0 if settings.method in _OF_ALL else job.participation
    found: dict[str, Any] = {"num-server-rounds": job.rounds, "fraction-train": share}
    found |= {f"server.{name}": value for name, value in chosen.values.items() if name in _SERVER}
    found |= {f"settings.{name}": value for name, value in _own(chosen).items()}
    return found | {f"rules.{name}": rule for name, rule in rules_of(chosen).items()}


def _own(chosen: Chosen) -> dict[str, Any]:
    """Settings that clients read."""
    return {name: value for name, value in chosen.values.items() if name not in _SERVER}


def rules_of(chosen: Chosen) -> dict[str, str]:
    """By setting, which function of `autotune.integrations.flower` makes it a client's own."""
    settings = chosen.settings
    found = {}
    if settings.staleness:
        found["download_keep"] = "by_staleness"
    if settings.importance_share != 1.0:
        found["upload_keep"] = "by_rank"
    if settings.balanced and settings.batch:
        found["batch"] = "by_speed"
    return found


def _rules(chosen: Chosen) -> str:
    """The Python file; empty where all clients are alike in all rounds."""
    rules, settings = rules_of(chosen), chosen.settings
    warmed = bool(settings.warmup_rounds) and "upload_keep" in chosen.values
    if not rules and not warmed:
        return ""
    listed = "".join(f"    {name!r}: {value!r},\n" for name, value in _own(chosen).items())
    head = _RULE_HEAD.format(names=", ".join(["ClientState", *sorted(set(rules.values()))]), settings=f"{{\n{listed}}}")
    parts = {"download_keep": _STALENESS, "upload_keep": _RANK, "batch": _SPEED}
    body = "".join(parts[name] for name in rules if name != "batch")
    body += _WARM_UP if warmed else ""
    body += _SPEED if "batch" in rules else ""
    return f"{head}{body}    return settings\n{_IMPORTANCE if 'upload_keep' in rules else ''}"


def _toml(value: Any) -> str:
    return repr(value) if isinstance(value, float) else json.dumps(value)


def limits(chosen: Chosen) -> tuple[str, ...]:
    """What Flower does not do by itself."""
    settings = chosen.settings
    found = []
    if settings.method != "fedavg":
        found.append(f"method={settings.method}: none of Flower's strategies; your strategy and clients do it")
    elif settings.server_momentum:
        found.append(f"server_momentum={settings.server_momentum:g}: that of FedAvgM is not Nesterov's")
    if settings.compressor != "none":
        kept = f" with upload_keep={settings.upload_keep:g}" if "upload_keep" in chosen.values else ""
        found.append(
            f"compressor={settings.compressor}{kept}: Flower sends arrays as they are; clients pack them, and `unpack` of "
            "autotune.integrations.flower.tuned takes them apart"
        )
    if settings.feedback != "none":
        found.append(f"feedback={settings.feedback}: clients keep what was dropped in their state")
    if settings.download != "none":
        found.append(
            f"download={settings.download}: Flower sends models as they are; `pack` of autotune.integrations.flower.tuned "
            "makes them smaller"
        )
    if settings.importance_share != 1.0:
        found.append(
            "importance of labels: by_rank takes the metric `importance` that clients report, else their examples"
        )
    if settings.balanced:
        found.append(
            "balanced=true exactly: by_speed knows what clients report as `seconds`, and no links"
            if settings.batch
            else "balanced=true with batch=0: clients take all that they have"
        )
    if settings.adapter_rank:
        found.append(f"adapter_rank={settings.adapter_rank}: adapters are the model's own")
    return tuple(found)
