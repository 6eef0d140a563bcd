"""SGLang's expert parallelism: the placement as its map of expert locations.

Checked with `srt/eplb/expert_location.py` and `srt/server_args.py` of sgl-project/sglang: ``--init-expert-location FILE.json``
with ``physical_to_logical_map`` (layers x places), which also switches its dispatch to that map; the places of a layer are
shared out over ``--ep-size`` GPUs in order.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from autotune.exporting import Exported
from evaluators.engines.expert_maps import places_of, sglang_expert_location
from evaluators.expert_placement.exporters.placed import Placed

NAME = "sglang"
SUMMARY = "--init-expert-location: which expert is on which GPU, as JSON"


def _numbers(given: Any) -> Any:
    """A list as the command line has it, such as ``0,1``."""
    return [part.strip() for part in given.split(",") if part.strip()] if isinstance(given, str) else given


class Options(BaseModel):
    """What SGLang's map needs besides a placement."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dense_layers: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...],
        BeforeValidator(_numbers),
        Field(
            description="decoder layers without experts, such as 0 for DeepSeek-V2-Lite, with commas between several; the "
            "trace does not know them, and SGLang counts them"
        ),
    ] = ()


def write(placed: Placed, options: Options) -> Exported:
    """The map as JSON, for a server of as many GPUs (``--ep-size``) as the placement has.

    Raises:
        UsageError: for dense layers that the model cannot have.
    """
    places = places_of(placed.placement, placed.cluster.gpus)
    return Exported(
        sglang_expert_location(places, placed.n_experts, options.dense_layers),
        ".json",
        (placed.other_dataflow("SGLang"),),
    )
