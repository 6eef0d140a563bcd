from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from autotune.command import CommandSpec, load_spec
from autotune.errors import UsageError
from autotune.measurement import ONCE, Protocol

FULL = """\
name: matmul
parameters:
  tile: {type: ordinal, values: [8, 16, 32, 64]}
  threads: {type: int, low: 1, high: 8, log: false}
  unroll: {type: bool}
  cache: {type: categorical, choices: [lru, lfu, on]}
  window: {type: int, low: 1, high: 64, when: "cache == 'lru'"}
  alpha: {type: float, low: 1e-3, high: 1.0, log: true}
  budgets: {type: int, low: 0, high: 4, size: 3}
constraints: ["tile * threads <= 256"]
objectives: [minimize time_ms]
outcome_constraints: ["rss_mib <= 512"]
default: {tile: 8, threads: 1, unroll: false, cache: lru, window: 8, alpha: 0.1, budgets: [1, 1, 1]}
command: [./bench, --tile, "{tile}", --threads, "{threads}", [--window, "{window}"], -n, 100, "{unroll?-u}", "{cache}"]
env: {ALPHA: "{alpha}", FIRST: "{budgets[0]}", REST: "{budgets}"}
metrics: json
exit_codes: {3: oom, 77: invalid}
timeout_s: 30
repeats: {warmup: 0, min: 1, max: 5, target: 0.05}
trials: 40
strategy: auto
seed: 0
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def test_everything_is_read(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, FULL))
    space = spec.space()
    start = space.default()
    assert start == {
        "tile": 8, "threads": 1, "unroll": False, "cache": "lru", "window": 8, "alpha": 0.1, "budgets": [1, 1, 1],
    }  # fmt: skip
    assert space.contains({**start, "cache": "on"} | {"window": 8}) is False  # inactive, so it must be absent
    assert space.contains({**start, "tile": 64, "threads": 5}) is False
    assert spec.objectives == ["minimize time_ms"]
    assert spec.required_metrics() == ("time_ms", "rss_mib")
    assert spec.exit_codes == {3: "oom", 77: "invalid"}
    assert (spec.trials, spec.timeout_s, spec.strategy, spec.seed, spec.name) == (40, 30.0, "auto", 0, "matmul")
    assert spec.unused() == ()
    assert spec.cwd == str(tmp_path)


def test_the_schema_is_published() -> None:
    schema = CommandSpec.model_json_schema()
    assert set(schema["required"]) == {"parameters", "objectives", "command"}
    assert "OrdinalSpec" in schema["$defs"]


MINIMAL = """\
parameters:
  tile: {type: ordinal, values: [1, 2]}
  wide: {type: bool, default: true}
objectives: wall_s
command: ./bench --tile {tile} '--mode=a b' {wide?-w}
"""


def test_the_short_forms(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, MINIMAL))
    assert spec.command == ["./bench", "--tile", "{tile}", "--mode=a b", "{wide?-w}"]
    assert spec.objectives == ["minimize wall_s"]
    assert spec.required_metrics() == ()
    assert spec.protocol() == ONCE
    assert spec.space().default()["wide"] is True


def test_a_command_from_the_command_line_runs_where_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    path = write(tmp_path, MINIMAL)
    assert load_spec(path).cwd == str(tmp_path)
    spec = load_spec(path, command=["./other", "{tile}"], overrides={"objectives": ["maximize speed"]})
    assert (spec.cwd, spec.command, spec.objectives) == (str(elsewhere), ["./other", "{tile}"], ["maximize speed"])
    with pytest.raises(UsageError, match=r"space\.yaml: command\[1\]: '{tiel}': there is no parameter 'tiel'"):
        load_spec(path, command=["./other", "{tiel}"])


@pytest.mark.parametrize(
    ("repeats", "protocol"),
    [
        ("{warmup: 2, min: 3}", Protocol(2, 3, 3, None)),
        ("{min: 6, max: 9, target: 0.1}", Protocol(0, 6, 9, 0.1)),
        ("{max: 9, target: 0.1}", Protocol(0, 2, 9, 0.1)),
        ("{target: 0.1}", Protocol(0, 2, 30, 0.1)),
    ],
)
def test_repeats(tmp_path: Path, repeats: str, protocol: Protocol) -> None:
    assert load_spec(write(tmp_path, MINIMAL + f"repeats: {repeats}\n")).protocol() == protocol


def test_scalars_are_read_as_yaml_1_2_does(tmp_path: Path) -> None:
    text = MINIMAL.replace("[1, 2]", "[on, no, 010, 0x10, 1:30, 1e-4, 2024-01-01, null, '7', .5, -3]")
    values = load_spec(write(tmp_path, text)).parameters["tile"].values  # type: ignore[union-attr]
    assert values == ["on", "no", 10, 16, "1:30", 1e-4, "2024-01-01", None, "7", 0.5, -3]


def replaced(old: str, new: str) -> str:
    assert old in FULL
    return FULL.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (replaced("values: [8", "valeus: [8"), 3, r"parameters\.tile\.valeus: unknown field; did you mean 'values'\?"),
        (replaced("type: ordinal", "type: ordnal"), 3, r"tile\.type: 'ordnal' is unknown; did you mean 'ordinal'\?"),
        (replaced("type: bool", "kind: bool"), 5, r"parameters\.unroll: field 'type' is missing; use one of: float"),
        (replaced("low: 1, high: 8", "low: 1"), 4, r"parameters\.threads: field 'high' is missing"),
        (
            replaced("low: 1, high: 8", "low: one, high: 8"),
            4,
            r"parameters\.threads\.low: 'one' cannot be used: .*integer",
        ),
        (replaced("low: 1, high: 8", "low: 9, high: 8"), 4, r"low=9 is above high=8"),
        (replaced("log: false", "log: no"), 4, r"threads\.log: 'no' is not a truth value; write true or false"),
        (replaced("cache == 'lru'", "cahce == 'lru'"), 7, r"cahce"),
        (replaced("tile * threads", "tile * thread"), 10, r"thread"),
        (replaced("objectives:", "objectivs:"), 11, r"objectivs: unknown field; did you mean 'objectives'\?"),
        (replaced("minimize time_ms", "fastest time_ms"), 11, r"objective 'fastest time_ms' is not of the form"),
        (replaced("[minimize time_ms]", "[a, max a]"), 11, r"objectives name a metric twice"),
        (replaced("[minimize time_ms]", "[]"), 11, r"objectives is empty"),
        (replaced("rss_mib <= 512", "rss_mib = 512"), 12, r"outcome constraint 'rss_mib = 512' is not of the form"),
        (replaced("default: {tile: 8", "default: {tile: 7"), 13, r"default 7 is not one of: 8, 16"),
        (
            replaced("default: {tile: 8, threads: 1", "default: {tile: 64, threads: 5"),
            13,
            r"default: the default configuration is not feasible: .*tile \* threads <= 256",
        ),
        (replaced("<= 256", "<= 2"), 10, r"no configuration|cannot hold|infeasible|no feasible"),
        (replaced("default: {tile: 8", "default: {tlie: 8"), 13, r"default\.tlie: there is no parameter 'tlie'"),
        (replaced('"{tile}", --th', '"{tiles}", --th'), 14, r"'{tiles}': there is no parameter 'tiles'"),
        (replaced('"{tile}", --th', '"{tile", --th'), 14, r"command\[2\]: template '{tile': '{' is no placeholder"),
        (replaced("{unroll?-u}", "{cache?-u}"), 14, r"needs a parameter of type bool, and cache is not one"),
        (replaced("budgets[0]", "budgets[3]"), 15, r"env\.FIRST: .*budgets has no element 3; it is a vector of 3"),
        (replaced("{alpha}", "{alpha[0]}"), 15, r"alpha has no element 0; it is one value"),
        (replaced("metrics: json", "metrics: jsn"), 16, r"metrics: 'jsn' is unknown; write json, or a mapping"),
        (replaced("metrics: json", "metrics: {time_ms: '([0-9'}"), 16, r"metrics\.time_ms: '\(\[0-9' is no regular"),
        (replaced("metrics: json", "metrics: {time_ms: 'a'}"), 16, r"has 0 groups; put exactly one around the number"),
        (replaced("metrics: json", "metrics: {time_ms: '(a)'}"), 16, r"no pattern for 'rss_mib'"),
        (replaced("3: oom", "3: ooom"), 17, r"exit_codes\[3\]: 'ooom' is unknown; use one of: 'invalid', 'oom'"),
        (replaced("3: oom", "0: oom"), 17, r"0 is no exit code of a failure"),
        (replaced("timeout_s: 30", "timeout_s: 0"), 18, r"timeout_s: 0 cannot be used: .*greater than 0"),
        (replaced("min: 1", "min: 9"), 19, r"repeats: .*1 <= min_repeats <= max_repeats"),
        (replaced("trials: 40", "trials: many"), 20, r"trials: 'many' cannot be used: .*integer"),
        (replaced("seed: 0", "trials: 3"), 22, r"'trials' is given twice; keep one"),
        (replaced("name: matmul", "name: [matmul"), 2, r"not valid YAML"),
        (replaced("name: matmul", "name: &a [*a]"), 1, r"an alias contains itself"),
        (replaced("name: matmul", "name: ''"), 1, r"name: '' cannot name a study"),
        (replaced("seed: 0", "seed: -1"), 22, r"seed: -1 cannot be used: .*greater than or equal to 0"),
        (replaced("env: {ALPHA:", "env: {'A=B':"), 15, r"'A=B' cannot name an environment variable"),
        (replaced("name: matmul", "parameters: {}"), 2, r"'parameters' is given twice"),
    ],
)
def test_mistakes_are_named_by_line_and_field(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_spec(write(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path}/space.yaml:{line}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected fields such as 'parameters:' and 'command:', but found nothing"),
        ("- a", "but found a list"),
        (MINIMAL.replace("command", "# command"), r"there is no command; add .* or give it after '--'"),
        (
            "parameters: {seed: {type: bool}}\nobjectives: y\ncommand: x",
            r":1: parameters\.seed: .* rename the parameter",
        ),
        ("parameters: {}\nobjectives: y\ncommand: x", r":1: parameters: "),
        ("a: !!python/object:os.system x", "not valid YAML"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_files_that_are_no_specification(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_spec(write(tmp_path, text))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_files_that_cannot_be_read(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "space.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"space\.yaml: cannot be read: "):
        load_spec(path)
