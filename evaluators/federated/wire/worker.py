"""One process of a run over the wire; see `run` for the topologies, and `process` of training layouts for how it is started.

torchrun ... -m evaluators.federated.wire.worker FOLDER OWNER
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import distributed as dist

from evaluators.federated.wire.network import tcp_bytes_sent
from evaluators.federated.wire.parties import PHASES, party_of
from evaluators.federated.wire.run import WireRun
from evaluators.training_layout.real.process import serve


def train(run: WireRun) -> dict[str, Any]:
    """Do a run; every process of it has to call this. What `run.Outcome` is made of."""
    party = party_of(run)
    calibrated = party.calibrate()
    wire = party.wire
    counted = (wire.payload_bytes, wire.header_bytes)
    seconds, tcp = [], 0
    tells = True
    for round_ in range(run.rounds):
        dist.barrier()
        before, began = tcp_bytes_sent(), time.perf_counter()
        party.round(round_)
        seconds.append(time.perf_counter() - began)
        dist.barrier()
        after = tcp_bytes_sent()
        if before is None or after is None:
            tells = False
        else:
            tcp += after - before
    mine = {
        "trains": party.trains,
        "holds": run.topology == "peers" or not party.trains,
        "seconds": seconds,
        "losses": party.losses,
        "up_bytes": party.up_bytes,
        "sent_bytes": wire.payload_bytes - counted[0],
        "header_bytes": wire.header_bytes - counted[1],
        "tcp_bytes": tcp if tells else None,
        "phases": {name: statistics.median(values) for name, values in party.phases.items() if values},
        "calibration": calibrated,
        "model": party.model.tolist(),
        "digest": zlib.crc32(party.model.numpy().tobytes()),
    }
    everybody: list[dict[str, Any]] = [{} for _ in range(wire.size)]
    dist.all_gather_object(everybody, mine)
    return _together(everybody, run.settings.local_steps)


def _together(everybody: list[dict[str, Any]], local_steps: int) -> dict[str, Any]:
    devices = [one for one in everybody if one["trains"]]
    holders = [one for one in everybody if one["holds"]]

    def measured(name: str) -> list[list[float]]:
        return [one["calibration"][name] for one in everybody if name in one["calibration"]]

    def calibrated(name: str) -> list[float]:
        return [statistics.median(seconds) for seconds in measured(name)]

    def late(name: str) -> float:
        # Who is last differs from time to time, so that a round waits longer than the slowest process takes as a rule.
        last: list[float] = [max(seconds) for seconds in zip(*measured(name), strict=True)]
        return statistics.median(last) - max(calibrated(name))

    def slowest(name: str) -> float:
        return max((one["phases"][name] for one in everybody if name in one["phases"]), default=0.0)

    return {
        "model": holders[0]["model"],
        "replicas_agree": len({one["digest"] for one in holders}) == 1,
        "losses": [statistics.fmean(values) for values in zip(*(one["losses"] for one in devices), strict=True)],
        "up_bytes": [one["up_bytes"] for one in devices],
        **{name: [one[name] for one in everybody] for name in ("sent_bytes", "header_bytes", "tcp_bytes")},
        "round_s": [max(values) for values in zip(*(one["seconds"] for one in everybody), strict=True)],
        "phases": {name: slowest(name) for name in PHASES},
        "calibration": {
            "compute_s": [seconds / local_steps for seconds in calibrated("compute_s")],
            "pack_s": calibrated("pack_s"),
            "mean_s": max(calibrated("mean_s")),
            "transport_s": max(calibrated("transport_s")),
            "late_s": sum(late(name) for name in ("compute_s", "pack_s", "mean_s")),
        },
    }


def work(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All runs that were told."""
    torch.set_num_threads(1)
    return [train(WireRun.from_dict(values)) for values in told["runs"]]


if __name__ == "__main__":
    serve(work)
    sys.stdout.flush()
    sys.stderr.flush()
    # All is done. Threads of torch may still be ending, and when the interpreter goes first they abort the process.
    os._exit(0)
