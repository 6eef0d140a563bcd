"""Reading and writing routing traces. The formats are described in `docs/traces.md`."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autotune.errors import UsageError
from evaluators.moe_cache.trace import DECODE, PREFILL, Int64, RoutingTrace

SUFFIX = ".moetrace.npz"
SCHEMA_VERSION = 1

_CSV_MAGIC = "# route_trace v1"
_CSV_COLUMNS = ("turn", "phase", "step", "layer", "slot", "expert", "weight")
_ARRAYS = ("experts", "turn", "phase", "weights", "predicted", "expert_bytes", "dense_bytes", "pass_index")
_REQUIRED_ARRAYS = ("experts", "turn", "phase")


def load_trace(path: str | Path) -> RoutingTrace:
    """Read a routing trace; the format is told from the file's content, not from its name.

    Args:
        path: a ``route_trace v1`` CSV, a prompts JSON (either may be gzipped), or the project's own ``.moetrace.npz``.

    Raises:
        UsageError: one sentence that names the file, the line or field, and the way out.
    """
    path = Path(path)
    try:
        return _load(path)
    except MemoryError:
        raise UsageError(
            f"trace {path} does not fit in this machine's memory once it is unpacked; is it damaged? Else record fewer tokens"
        ) from None


def _load(path: Path) -> RoutingTrace:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"trace {path} cannot be read ({error.strerror}); give the path of a trace file") from None
    try:
        if raw[:2] == b"PK":
            return _read_npz(raw, path)
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        text = raw.decode()
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile):
        raise UsageError(f"trace {path} is damaged or cut short; copy or record it again") from None
    except UnicodeDecodeError:
        raise _unknown_format(path) from None
    if text.startswith(_CSV_MAGIC):
        return _read_csv(text, path)
    if text.lstrip().startswith("{"):
        return _read_json(text, path)
    if not text.strip():
        raise UsageError(f"trace {path} is empty; record at least one token of one layer")
    raise _unknown_format(path)


def save_trace(trace: RoutingTrace, path: str | Path) -> None:
    """Write the project's own format. The file appears whole or not at all.

    Raises:
        UsageError: when the name does not end in ``.moetrace.npz`` or the folder cannot be written.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIX):
        raise UsageError(f"trace {path} must be named *{SUFFIX} to be saved")
    meta = {
        "schema_version": SCHEMA_VERSION,
        "model": trace.model,
        "n_experts": trace.n_experts,
        "top_k": trace.top_k,
        "turn_names": list(trace.turn_names),
        "provenance": dict(trace.provenance),
    }
    arrays = {name: getattr(trace, name) for name in _ARRAYS if getattr(trace, name) is not None}
    try:
        arrays["meta"] = np.array(json.dumps(meta))
    except TypeError as error:
        raise UsageError(f"trace field provenance must hold plain JSON values ({error})") from None
    temporary: str | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            np.savez_compressed(file, **arrays)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise UsageError(f"trace {path} cannot be written ({error.strerror}); choose a folder that can be") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unknown_format(path: Path) -> UsageError:
    return UsageError(
        f"trace {path} has no known format; give a '{_CSV_MAGIC}' CSV or prompts JSON (gzipped or not), or *{SUFFIX}"
    )


def _named(path: Path, **fields: Any) -> RoutingTrace:
    try:
        return RoutingTrace(**fields)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


# The project's own format ------------------------------------------------------------------------------------------


def _read_npz(raw: bytes, path: Path) -> RoutingTrace:
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except ValueError as error:
        raise UsageError(f"trace {path} cannot be read as a numpy archive ({error}); save it again") from None
    try:
        meta = json.loads(str(arrays.pop("meta")))
        version = meta["schema_version"]
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"trace {path} lacks a readable 'meta' entry; save it with save_trace") from None
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"trace {path} has schema_version {version!r}; this release reads {SCHEMA_VERSION}, so save it again"
        )
    missing = [name for name in _REQUIRED_ARRAYS if name not in arrays]
    missing += [name for name in ("model", "n_experts", "top_k", "turn_names") if name not in meta]
    if missing:
        raise UsageError(f"trace {path} lacks {', '.join(missing)}; save it with save_trace")
    unknown = sorted(set(arrays) - set(_ARRAYS))
    if unknown:
        raise UsageError(f"trace {path} holds the unknown array {unknown[0]!r}; known are: {', '.join(_ARRAYS)}")
    for name in ("n_experts", "top_k"):
        if type(meta[name]) is not int:
            raise UsageError(f"trace {path}: {name} in 'meta' is {meta[name]!r}; give a whole number")
    if not isinstance(meta["turn_names"], list) or not isinstance(meta.get("provenance", {}), dict):
        raise UsageError(f"trace {path}: in 'meta', turn_names must be a list and provenance an object; save it again")
    return _named(
        path,
        model=str(meta["model"]),
        n_experts=meta["n_experts"],
        top_k=meta["top_k"],
        turn_names=tuple(meta["turn_names"]),
        provenance=meta.get("provenance", {}),
        **arrays,
    )


# route_trace v1 ----------------------------------------------------------------------------------------------------


def _read_csv(text: str, path: Path) -> RoutingTrace:
    end = 0
    header: list[str] = []
    while text.startswith("#", end):
        stop = text.find("\n", end)
        stop = len(text) if stop < 0 else stop
        header.append(text[end:stop])
        end = min(stop + 1, len(text))
    general = _header_numbers(header, path)
    try:
        table = pd.read_csv(io.StringIO(text[end:]))
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = str(error).replace("\n", " ").strip()
        raise UsageError(
            f"trace {path} has no readable table below its {len(header)} comment lines ({reason})"
        ) from None
    first_line = len(header) + 2
    absent = [name for name in _CSV_COLUMNS if name not in table.columns]
    if absent:
        raise UsageError(
            f"trace {path} line {first_line - 1} lacks column {absent[0]!r}; columns are: {', '.join(_CSV_COLUMNS)}"
        )
    if table.empty:
        raise UsageError(f"trace {path} is empty: no row follows line {first_line - 1}; record at least one token")
    columns = {name: _column(table, name, path, first_line) for name in _CSV_COLUMNS}
    return _table_to_trace(columns, general, _layer_bytes(header, general["n_layer"], path), first_line, path)


def _header_numbers(header: list[str], path: Path) -> dict[str, Any]:
    values: dict[str, Any] = dict(pair for line in header if " n_" in line for pair in re.findall(r"(\w+)=(\S+)", line))
    for name in ("n_layer", "n_expert", "n_expert_used"):
        if not str(values.get(name, "")).isdigit():
            raise UsageError(
                f"trace {path}: the comment lines lack {name}=NUMBER; "
                "they need '# model=... n_layer=... n_expert=... n_expert_used=...'"
            )
        values[name] = int(values[name])
    return values


def _layer_bytes(header: list[str], n_layers: int, path: Path) -> dict[str, Int64 | None]:
    found: dict[str, dict[int, int]] = {"expert_bytes": {}, "dense_bytes": {}}
    for line in header:
        layer = re.match(r"#\s*layer=(\d+)\b", line)
        for name in found if layer else ():
            value = re.search(rf"\b{name}=(\d+)", line)
            if value and layer:
                found[name][int(layer[1])] = int(value[1])
    out: dict[str, Int64 | None] = {}
    for name, by_layer in found.items():
        absent = [layer for layer in range(n_layers) if layer not in by_layer]
        if by_layer and absent:
            raise UsageError(
                f"trace {path}: the comment lines give {name} of {len(by_layer)} layers but not of layer {absent[0]}; "
                "give it for every layer or for none"
            )
        out[name] = np.array([by_layer[layer] for layer in range(n_layers)], dtype=np.int64) if by_layer else None
    return out


def _column(table: pd.DataFrame, name: str, path: Path, first_line: int) -> Any:
    numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=float)
    wrong = ~np.isfinite(numbers)
    if name != "weight":
        wrong |= numbers != np.floor(numbers)
    if wrong.any():
        row = int(np.argmax(wrong))
        kind = "number" if name == "weight" else "whole number"
        raise UsageError(
            f"trace {path} line {first_line + row}: column {name} is {str(table[name].iloc[row])!r}; give a {kind}"
        )
    return numbers if name == "weight" else numbers.astype(np.int64)


def _table_to_trace(
    columns: dict[str, Any], general: dict[str, Any], layer_bytes: dict[str, Int64 | None], first_line: int, path: Path
) -> RoutingTrace:
    n_layers, n_experts, top_k = general["n_layer"], general["n_expert"], general["n_expert_used"]
    for name, limit in (("phase", 2), ("layer", n_layers), ("slot", top_k), ("expert", n_experts), ("turn", 2**31)):
        wrong = (columns[name] < 0) | (columns[name] >= limit)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise UsageError(
                f"trace {path} line {first_line + row}: {name} {columns[name][row]} is out of range; "
                f"it goes from 0 to {limit - 1}"
            )
    # A token is a (turn, step); its step orders it within the turn.
    tokens, token = np.unique(np.column_stack((columns["turn"], columns["step"])), axis=0, return_inverse=True)
    token = token.reshape(-1)
    experts = np.full((len(tokens), n_layers, top_k), -1, dtype=np.int16)
    weights = np.zeros(experts.shape, dtype=np.float32)
    cell = (token, columns["layer"], columns["slot"])
    flat = np.ravel_multi_index(cell, experts.shape)
    _, first_row = np.unique(flat, return_index=True)
    if len(first_row) != len(flat):
        row = int(np.setdiff1d(np.arange(len(flat)), first_row)[0])
        raise UsageError(
            f"trace {path} line {first_line + row} repeats an earlier turn, step, layer and slot; remove one of them"
        )
    experts[cell] = columns["expert"]
    weights[cell] = columns["weight"]
    phase = np.zeros(len(tokens), dtype=np.int8)
    phase[token] = columns["phase"]
    mixed = phase[token] != columns["phase"]
    if mixed.any():
        row = int(np.argmax(mixed))
        raise UsageError(
            f"trace {path} line {first_line + row}: step {columns['step'][row]} is prefill and decode at once; "
            "give one phase to all rows of a step"
        )
    ids, turn = np.unique(tokens[:, 0], return_inverse=True)
    return _named(
        path,
        model=str(general.get("model", path.name)),
        n_experts=n_experts,
        top_k=top_k,
        experts=experts,
        turn=turn.reshape(-1).astype(np.int32),
        phase=phase,
        weights=weights,
        turn_names=tuple(f"turn {i}" for i in ids),
        provenance={"format": "route_trace v1", "file": path.name},
        **layer_bytes,
    )


# Prompts JSON ------------------------------------------------------------------------------------------------------


def _read_json(text: str, path: Path) -> RoutingTrace:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"trace {path} line {error.lineno}: {error.msg}; the file is not whole JSON") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"trace {path} cannot be read as JSON ({error}); record it again") from None
    for name in ("num_layers", "num_experts", "top_k"):
        if type(data.get(name)) is not int or data[name] < 1:
            raise UsageError(f"trace {path}: field {name} is {data.get(name)!r}; give a whole number above 0")
    prompts = data.get("prompts")
    if not isinstance(prompts, dict) or not prompts:
        raise UsageError(
            f"trace {path}: field prompts is empty or absent; give a mapping of names to prefill and decode"
        )
    parts, turns, phases = [], [], []
    for turn, (name, prompt) in enumerate(prompts.items()):
        for phase, key in ((PREFILL, "prefill"), (DECODE, "decode")):
            where = f"trace {path}: prompts.{name}.{key}"
            picks = _json_picks(prompt, key, where, data["num_layers"], data["top_k"])
            parts.append(picks)
            turns.append(np.full(len(picks), turn, dtype=np.int32))
            phases.append(np.full(len(picks), phase, dtype=np.int8))
    return _named(
        path,
        model=str(data.get("model", path.name)),
        n_experts=data["num_experts"],
        top_k=data["top_k"],
        experts=np.concatenate(parts),
        turn=np.concatenate(turns),
        phase=np.concatenate(phases),
        turn_names=tuple(prompts),
        provenance={"format": "prompts json", "file": path.name},
    )


def _json_picks(prompt: Any, key: str, where: str, n_layers: int, top_k: int) -> Int64:
    tokens = prompt.get(key) if isinstance(prompt, dict) else None
    if not isinstance(tokens, list):
        raise UsageError(f"{where} is absent; give a list of tokens, each with its layers, each with its experts")
    for i, token in enumerate(tokens):
        if not isinstance(token, list) or len(token) != n_layers:
            got = len(token) if isinstance(token, list) else type(token).__name__
            raise UsageError(f"{where}[{i}] has {got} layers; num_layers is {n_layers}, so record every layer")
        for layer, picks in enumerate(token):
            if not isinstance(picks, list) or len(picks) != top_k or any(type(e) is not int for e in picks):
                raise UsageError(f"{where}[{i}][{layer}] is {picks!r}; give top_k={top_k} expert numbers")
    return np.array(tokens, dtype=np.int64).reshape(len(tokens), n_layers, top_k)
