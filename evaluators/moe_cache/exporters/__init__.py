"""A cache configuration in the formats of engines that people run, one file for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from pydantic import BaseModel

from autotune.exporting import Exported, Exporter, NoOptions
from autotune.space import Config
from autotune.store.records import TrialRecord
from evaluators.moe_cache.exporters import ktransformers, llama_cpp, moe_infinity, plan_json, sglang, vllm
from evaluators.moe_cache.exporters.subject import Subject

__all__ = ["Subject", "exporters"]

_Write = Callable[[Config, Subject, Any, str], Exported]

_FORMATS: tuple[tuple[str, str, _Write, type[BaseModel]], ...] = (
    (plan_json.NAME, plan_json.SUMMARY, plan_json.write, NoOptions),
    (ktransformers.NAME, ktransformers.SUMMARY, ktransformers.write, NoOptions),
    (llama_cpp.NAME, llama_cpp.SUMMARY, llama_cpp.write, NoOptions),
    (llama_cpp.CACHE_NAME, llama_cpp.CACHE_SUMMARY, llama_cpp.write_cache, NoOptions),
    (vllm.NAME, vllm.SUMMARY, vllm.write, NoOptions),
    (sglang.NAME, sglang.SUMMARY, sglang.write, NoOptions),
    (moe_infinity.NAME, moe_infinity.SUMMARY, moe_infinity.write, moe_infinity.Options),
)


def exporters(load: Callable[[], Subject]) -> dict[str, Exporter]:
    """All formats by name. `load` reads the trace; it is called once, by the first configuration that is written."""
    subject = cache(load)

    def bound(write: _Write) -> Callable[[TrialRecord, Any, str], Exported]:
        return lambda trial, options, stem: write(dict(trial.config), subject(), options, stem)

    return {name: Exporter(name, summary, bound(write), options) for name, summary, write, options in _FORMATS}
