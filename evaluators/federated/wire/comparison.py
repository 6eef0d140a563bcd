"""Runs over real processes beside the simulation of the same runs: bytes, weights and seconds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluators.federated.wire.run import DEFAULT_LIMIT_S, Outcome, WireRun, simulate, train


@dataclass(frozen=True)
class Row:
    """One run. Bytes are of all rounds, seconds of one.

    Attributes:
        topology, compressor, keep, feedback, local_steps: what was run.
        bytes_predicted, bytes_real: uploaded by all devices, each payload counted once: by the simulation's ledger, and as
            long as they were.
        network_bytes: that processes handed to the network: payloads, once for each receiver, models that came down, and
            lengths.
        tcp_bytes: what the kernel sent of TCP for that, with gloo's own messages and a barrier a round; None where it does
            not tell.
        seconds_simulated: the simulation's clock, with computing as measured in the processes before, and latencies longer by
            what gloo itself takes there.
        seconds_predicted: with compressing, averaging and waiting for the last one as measured there too, for which that clock
            has no term.
        seconds_real: median over rounds but the first.
        seconds_quartiles: likewise.
        compute_s, pack_s, exchange_s, mean_s: of the real round, medians of the slowest process.
        weights_difference: the largest between both final models, in absolute value.
        weights_change: the largest between the real final model and its start, to set that beside.
    """

    topology: str
    compressor: str
    keep: float
    feedback: str
    local_steps: int
    bytes_predicted: int
    bytes_real: int
    network_bytes: int
    tcp_bytes: int | None
    seconds_simulated: float
    seconds_predicted: float
    seconds_real: float
    seconds_quartiles: tuple[float, float]
    compute_s: float
    pack_s: float
    exchange_s: float
    mean_s: float
    weights_difference: float
    weights_change: float

    @property
    def seconds_error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return self.seconds_predicted / self.seconds_real - 1.0


def compare(runs: Sequence[WireRun], limit_s: float = DEFAULT_LIMIT_S) -> list[Row]:
    """Train for real and in the simulation.

    Args:
        runs, limit_s: see `run.train`.

    Raises:
        UsageError, Failure: see `run.train`; of kind `nan` also where one of both diverges.
    """
    return [_row(run, outcome.check()) for run, outcome in zip(runs, train(runs, limit_s), strict=True)]


def _row(run: WireRun, outcome: Outcome) -> Row:
    simulated = simulate(run, outcome.calibration)
    settings = run.settings
    # The first round allocates buffers and, with DDP, is the one after which buckets are arranged anew.
    seconds = outcome.round_s[1:] or outcome.round_s
    low, high = np.percentile(seconds, (25, 75))
    return Row(
        topology=run.topology,
        compressor=settings.compressor,
        keep=settings.upload_keep,
        feedback=settings.feedback,
        local_steps=settings.local_steps,
        bytes_predicted=sum(simulated.up_bytes),
        bytes_real=sum(outcome.up_bytes),
        network_bytes=sum(outcome.sent_bytes) + sum(outcome.header_bytes),
        tcp_bytes=None if outcome.tcp_bytes is None else sum(outcome.tcp_bytes),
        seconds_simulated=simulated.round_s,
        seconds_predicted=simulated.round_s + simulated.codec_s,
        seconds_real=statistics.median(seconds),
        seconds_quartiles=(float(low), float(high)),
        weights_difference=float((simulated.model - outcome.model).abs().max()),
        weights_change=float((outcome.model - run.world().initial()).abs().max()),
        **outcome.phases,
    )
