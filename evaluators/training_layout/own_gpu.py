"""A `Gpu` from kernel times of one's own: what the device and the links between its like were measured to do."""

from __future__ import annotations

from types import MappingProxyType

from evaluators.training_layout.gpus import Gpu
from evaluators.training_layout.own_tables import OwnTables

OWN = "own"  # as the option `hardware` names it
_GIB = 2**30


def own_gpu(tables: OwnTables) -> Gpu:
    """The measured device. Of processors each process has an equal share of the machine's memory; peak figures are the highest
    measured rates; the network, which one machine cannot measure, is taken to be as fast as the links."""
    hardware = tables.environment.get("details", {}).get("hardware", {})
    together = max((max(by_size) for by_size in tables.collectives.values()), default=1)
    if tables.device == "cuda" and hardware.get("gpus"):
        memory = float(hardware["gpus"][0]["memory_gib"])
    else:
        memory = float(hardware.get("memory_gib", 0.0)) / max(together, tables.processes)
    rates = {kind: max(2.0 * m * n * k / seconds for m, n, k, seconds in rows) for kind, rows in tables.gemm.items()}
    gathered = tables.collectives.get("all_gather", {}).get(together, ())
    link = max(
        (nbytes * (together - 1) / together / seconds for nbytes, seconds in gathered), default=tables.memory_bytes_s
    )
    return Gpu(
        tables.name,
        memory * _GIB,
        tables.memory_bytes_s,
        MappingProxyType(rates),
        (together,),
        (link, link),
        tables.memory_bytes_s if tables.device == "cpu" else link,
        None,
        f"measured on {tables.created_at:%Y-%m-%d}",
    )
