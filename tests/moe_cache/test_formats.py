"""Trace files: round trips, the recorded formats, and one clear sentence for each damaged file."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from autotune.errors import UsageError
from evaluators.moe_cache.formats import load_trace, save_trace
from evaluators.moe_cache.predict import with_accuracy
from evaluators.moe_cache.trace import DECODE, PREFILL, RoutingTrace

from .traces import random_traces, recorded

CSV = """# route_trace v1
# model=tiny n_layer=2 n_expert=4 n_expert_used=1
# layer=0 expert_bytes=100 dense_bytes=7
# layer=1 expert_bytes=120 dense_bytes=8
turn,phase,step,layer,slot,expert,weight
0,0,0,0,0,3,1.0
0,0,1,0,0,2,1.0
0,0,1,1,0,1,0.5
0,1,2,0,0,0,1.0
0,1,2,1,0,3,0.25
"""
JSON = {
    "model": "tiny",
    "num_layers": 2,
    "num_experts": 4,
    "top_k": 1,
    "prompts": {
        "prose": {"prefill": [[[0], [1]]], "decode": [[[2], [3]]]},
        "code": {"prefill": [], "decode": [[[1], [1]]]},
    },
}


def write(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@given(random_traces())
@settings(max_examples=20, deadline=None)
def test_own_format_round_trip(tmp_path_factory: pytest.TempPathFactory, trace: RoutingTrace) -> None:
    path = tmp_path_factory.mktemp("round") / "a.moetrace.npz"
    full = with_accuracy(trace, 0.5, seed=1, depths=2)
    save_trace(full, path)
    again = load_trace(path)
    for name in ("experts", "turn", "phase", "predicted"):
        np.testing.assert_array_equal(getattr(again, name), getattr(full, name))
    assert again.weights is None
    assert (again.model, again.n_experts, again.top_k) == (full.model, full.n_experts, full.top_k)
    assert (again.turn_names, again.provenance) == (full.turn_names, full.provenance)


def test_saving_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path, CSV))
    path = tmp_path / "a.moetrace.npz"
    path.write_bytes(b"older")
    save_trace(trace, path)
    assert load_trace(path).expert_bytes is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.moetrace.npz", "trace.csv"]
    with pytest.raises(UsageError, match="must be named"):
        save_trace(trace, tmp_path / "a.npz")
    with pytest.raises(UsageError, match="cannot be written"):
        save_trace(trace, tmp_path / "absent" / "a.moetrace.npz")


def test_csv(tmp_path: Path) -> None:
    plain = load_trace(write(tmp_path, CSV))
    zipped = tmp_path / "t.gz"
    zipped.write_bytes(gzip.compress(CSV.encode()))
    for trace in (plain, load_trace(zipped)):
        assert trace.experts.tolist() == [[[3], [-1]], [[2], [1]], [[0], [3]]]
        assert trace.phase.tolist() == [PREFILL, PREFILL, DECODE]
        assert trace.expert_bytes is not None and trace.expert_bytes.tolist() == [100, 120]
        assert trace.dense_bytes is not None and trace.dense_bytes.tolist() == [7, 8]
        assert trace.weights is not None and trace.weights[2, 1, 0] == 0.25


def test_json_prompts_become_turns(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path, json.dumps(JSON)))
    assert trace.turn_names == ("prose", "code")
    assert trace.turn.tolist() == [0, 0, 1]
    assert trace.phase.tolist() == [PREFILL, DECODE, DECODE]
    assert trace.experts[:, :, 0].tolist() == [[0, 1], [2, 3], [1, 1]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0,1,2,0,0,0,1.0", "0,1,2,0,0,9,1.0", "line 9: expert 9 is out of range; it goes from 0 to 3"),
        ("0,1,2,0,0,0,1.0", "0,1,2,5,0,0,1.0", "line 9: layer 5 is out of range"),
        ("0,1,2,0,0,0,1.0", "0,1,2,0,0,x,1.0", "line 9: column expert is 'x'"),
        ("0,1,2,0,0,0,1.0", "0,1,2,0,0,1.5,1.0", "line 9: column expert is '1.5'"),
        ("0,1,2,0,0,0,1.0\n", "", "lacks layer 0 of decode token 2"),
        ("0,1,2,1,0,3,0.25", "0,1,2,0,0,3,0.25", "line 10 repeats an earlier turn, step, layer and slot"),
        ("0,1,2,1,0,3,0.25", "0,0,2,1,0,3,0.25", "step 2 is prefill and decode at once"),
        ("slot,expert", "slot,chosen", "line 5 lacks column 'expert'"),
        ("n_expert=4 ", "", "lack n_expert=NUMBER"),
        ("# layer=1 expert_bytes=120 dense_bytes=8\n", "", "not of layer 1"),
        (CSV[CSV.index("0,0,0") :], "", "is empty"),
    ],
)
def test_damaged_csv(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CSV
    path = write(tmp_path, CSV.replace(old, new))
    with pytest.raises(UsageError) as caught:
        load_trace(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 3}, "prompts.prose.prefill[0] has 2 layers; num_layers is 3"),
        ({"top_k": 2}, "prompts.prose.prefill[0][0] is [0]; give top_k=2"),
        ({"num_experts": 2}, "has expert 2 at token 1, layer 0"),
        ({"num_experts": "many"}, "num_experts is 'many'"),
        ({"prompts": {}}, "prompts is empty"),
        ({"prompts": {"a": {"prefill": []}}}, "prompts.a.decode is absent"),
        ({"prompts": {"a": {"prefill": [], "decode": []}}}, "is empty"),
    ],
)
def test_damaged_json(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write(tmp_path, json.dumps({**JSON, **change}))
    with pytest.raises(UsageError) as caught:
        load_trace(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_files_that_are_no_trace(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path, CSV))
    own = tmp_path / "a.moetrace.npz"
    save_trace(trace, own)
    whole = own.read_bytes()
    cases: list[tuple[bytes, str]] = [
        (b"", "is empty"),
        (b"hello", "has no known format"),
        (b"\xff\xfe\x00", "has no known format"),
        (b'{"model": ', "is not whole JSON"),
        (gzip.compress(CSV.encode())[:40], "damaged or cut short"),
        (whole[: len(whole) // 2], "damaged or cut short"),
    ]
    for content, message in cases:
        path = tmp_path / "case"
        path.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            load_trace(path)
        assert message in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        load_trace(tmp_path / "absent.csv")


def test_own_format_of_another_schema(tmp_path: Path) -> None:
    path = tmp_path / "a.moetrace.npz"
    meta = {"schema_version": 2, "model": "m", "n_experts": 2, "top_k": 1, "turn_names": ["t"]}
    np.savez(path, meta=np.array(json.dumps(meta)), experts=np.zeros((1, 1, 1), np.int16))
    with pytest.raises(UsageError, match="schema_version 2"):
        load_trace(path)
    np.savez(path, meta=np.array(json.dumps({**meta, "schema_version": 1})), experts=np.zeros((1, 1, 1), np.int16))
    with pytest.raises(UsageError, match="lacks turn, phase"):
        load_trace(path)
    np.savez(path, experts=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UsageError, match="cannot be read as a numpy archive"):
        load_trace(path)


def test_recorded_qwen_trace() -> None:
    trace = load_trace(recorded("qwen.route.csv.gz"))
    assert (trace.n_layers, trace.n_experts, trace.top_k) == (48, 128, 6)
    assert (trace.n_picks, trace.decode_tokens, trace.n_tokens) == (44766, 128, 156)
    # The engine computed the last layer only for the last token of the prompt.
    assert (trace.experts[:28, 47, 0] >= 0).tolist() == [False] * 27 + [True]


def test_recorded_granite_trace() -> None:
    trace = load_trace(recorded("granite.trace.json.gz"))
    assert (trace.n_layers, trace.n_experts, trace.top_k) == (24, 32, 8)
    assert trace.turn_names == ("english_prose", "code", "math")
    assert trace.passes().pass_tokens.max() == 44


@pytest.mark.parametrize("value", ["[" * 100_000, "1" * 5000])
def test_json_without_end_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match="cannot be read as JSON"):
        load_trace(write(tmp_path, '{"model": ' + value))


def test_an_archive_that_claims_more_than_memory_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i2", "fortran_order": False, "shape": (2**55, 8, 4)})
    path = tmp_path / "huge.moetrace.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("experts.npy", header.getvalue())
    with pytest.raises(UsageError, match="does not fit in this machine's memory"):
        load_trace(path)
