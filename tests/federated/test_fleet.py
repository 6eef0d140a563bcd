"""Devices and links: made up by a seed, read from files; compute profiles by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune import UsageError
from evaluators.federated.compute_profile import ComputeProfile, measure, profile_of, shipped
from evaluators.federated.device_classes import DEVICES, GROUPS, LINKS
from evaluators.federated.fleet import Fleet, fleet, read_fleet
from evaluators.federated.tasks import load

PROFILE = ComputeProfile("digits", 4810, (64,), fixed_s=2e-3, sample_s=1e-4, machine="a core", gflops=50.0)


def counts(made: Fleet) -> dict[str, int]:
    return {name: int((made.kind == place).sum()) for place, name in enumerate(made.kinds)}


def test_peaks_are_cores_times_clock_times_operations() -> None:
    assert DEVICES["jetson-nano"].gflops == pytest.approx(235.9, abs=0.1)
    assert DEVICES["jetson-agx-xavier"].gflops == pytest.approx(1410, abs=1)
    assert DEVICES["raspberry-pi-4"].gflops == 48.0
    assert all(device.link in LINKS and device.idle_w < device.busy_w for device in DEVICES.values())
    assert all(name in DEVICES for names in GROUPS.values() for name in names)


def test_a_mix_is_shared_out_exactly() -> None:
    assert counts(fleet(120, 0, "phones:41,jetsons:79")) == {
        "phone-mid": 21, "phone-flagship": 20,
        "jetson-nano": 20, "jetson-tx2": 20, "jetson-xavier-nx": 20, "jetson-agx-xavier": 19,
    }  # fmt: skip
    assert counts(fleet(10, 0, "laptop:1, raspberry-pi-4:4")) == {"laptop": 2, "raspberry-pi-4": 8}
    assert counts(fleet(3, 0, "laptop")) == {"laptop": 3}


@settings(max_examples=20)
@given(st.integers(1, 200), st.floats(0.01, 100), st.floats(0.01, 100), st.integers(0, 2**63 - 1))
def test_any_mix_gives_as_many_devices_as_asked_for(n: int, phones: float, jetsons: float, seed: int) -> None:
    made = fleet(n, seed, f"phones:{phones},jetsons:{jetsons}")
    assert made.n == n == len(made.down_bytes_s) == int(sum(counts(made).values()))
    assert (made.down_bytes_s > 0).all()


def test_numbers_of_a_device_by_hand() -> None:
    made = fleet(2, 0, "raspberry-pi-4@lte:1,jetson-tx2@ethernet:1", link_spread=0.0, round_spread=0.0)
    assert made.gflops.tolist() == pytest.approx([48.0, 665.6])
    assert made.memory_bytes.tolist() == [4 * 2**30, 8 * 2**30]
    assert made.down_bytes_s.tolist() == [13e6 / 8, 125e6]
    assert made.up_bytes_s.tolist() == [6e6 / 8, 125e6]
    assert made.latency_s.tolist() == pytest.approx([0.07, 0.0005])
    assert made.busy_w.tolist() == [6.4, 15.0]
    assert torch.equal(made.links(7)[0], made.down_bytes_s)


def test_links_differ_by_device_and_round_and_follow_the_seed() -> None:
    made, same, other = fleet(50, 1), fleet(50, 1), fleet(50, 2)
    for round_ in (0, 1, 10_000):
        assert all(torch.equal(a, b) for a, b in zip(made.links(round_), same.links(round_), strict=True))
        assert not torch.equal(made.links(round_)[0], other.links(round_)[0])
    assert not torch.equal(made.links(0)[0], made.links(1)[0])
    down, up = made.links(3)
    torch.testing.assert_close(down / made.down_bytes_s, up / made.up_bytes_s)  # both directions together


def test_the_spread_of_links_is_lognormal_as_asked_for() -> None:
    made = fleet(4000, 0, "laptop@lte", link_spread=0.5, round_spread=0.2)
    log_of = (made.down_bytes_s / (13e6 / 8)).log()
    # Of 4,000 draws the mean's deviation is 0.5 / 63, and the deviation's is 0.5 / 89.
    assert abs(float(log_of.mean())) < 4 * 0.5 / 63
    assert abs(float(log_of.std()) - 0.5) < 4 * 0.5 / 89
    rounds = torch.stack([(made.links(r)[0] / made.down_bytes_s).log() for r in range(2)])
    assert abs(float(rounds[0].std()) - 0.2) < 4 * 0.2 / 89
    assert abs(float(torch.corrcoef(rounds)[0, 1])) < 4 / 63


def test_a_device_has_the_same_links_in_a_larger_fleet() -> None:
    few, many = fleet(5, 3, "laptop"), fleet(50, 3, "laptop")
    assert torch.equal(few.links(4)[1], many.links(4)[1][:5])


def test_step_seconds_by_hand() -> None:
    made = fleet(2, 0, "raspberry-pi-4:1,jetson-tx2:1", reached=0.5)
    fixed, sample = made.step_seconds(PROFILE)
    assert fixed.tolist() == pytest.approx([2e-3 * 50 / 24, 2e-3 * 50 / 332.8])
    assert sample.tolist() == pytest.approx([1e-4 * 50 / 24, 1e-4 * 50 / 332.8])


@pytest.mark.parametrize(
    ("mix", "told"),
    [
        ("phones:40,jetson:80", "device 'jetson', which is unknown; use jetsons, phones, jetson-nano"),
        ("phones@4g:1", "link '4g', which is unknown; use lte"),
        ("phones:0", "gives phones the share '0'"),
        ("phones:many", "gives phones the share 'many'"),
        ("", "device '', which is unknown"),
    ],
)
def test_a_mix_that_cannot_be_read(mix: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        fleet(10, 0, mix)


def test_arguments_out_of_range() -> None:
    with pytest.raises(UsageError, match="devices is 0"):
        fleet(0, 0)
    with pytest.raises(UsageError, match="link_spread is -1"):
        fleet(3, 0, link_spread=-1)
    with pytest.raises(UsageError, match="round_spread is nan"):
        fleet(3, 0, round_spread=math.nan)
    with pytest.raises(UsageError, match="reached is 0"):
        fleet(3, 0, reached=0)


def test_files_of_devices_by_hand(tmp_path: Path) -> None:
    listed = [
        {"device": "jetson-nano", "count": 2},
        {"device": "laptop", "link": "cable", "gflops": 100, "up_mbit_s": 8},
        {"name": "board", "link": "ethernet", "gflops": 10, "memory_gib": 0.5, "busy_w": 2, "idle_w": 0},
    ]
    (tmp_path / "fleet.json").write_text(json.dumps(listed))
    header = "name,device,link,count,gflops,memory_gib,busy_w,idle_w,up_mbit_s"
    rows = [",jetson-nano,,2,,,,,", ",laptop,cable,,100,,,,8", "board,,ethernet,,10,0.5,2,0,"]
    (tmp_path / "fleet.csv").write_text("\n".join([header, *rows]))
    for file in ("fleet.json", "fleet.csv"):
        made = read_fleet(tmp_path / file)
        assert counts(made) == {"jetson-nano": 2, "laptop": 1, "board": 1}
        assert made.gflops.tolist() == pytest.approx([235.93, 235.93, 100.0, 10.0], abs=0.01)
        assert made.memory_bytes[3] == 2**29
        assert made.up_bytes_s.tolist() == [2.5e6, 2.5e6, 1e6, 125e6]
        assert made.down_bytes_s.tolist() == [6.25e6, 6.25e6, 25e6, 125e6]
        assert made.idle_w[3] == 0.0
        assert torch.equal(made.links(1)[0], made.down_bytes_s)


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ([{"device": "jetson"}], "device 1: device 'jetson' is unknown"),
        ([{"device": "laptop"}, {"device": "laptop", "link": "4g"}], "device 2: link '4g' is unknown"),
        ([{"device": "laptop", "gflops": 0}], "device 1: gflops is 0; give a number above 0"),
        ([{"device": "laptop", "idle_w": -1}], "device 1: idle_w is -1; give a number at least 0"),
        ([{"device": "laptop", "busy_w": "much"}], "device 1: busy_w is 'much'"),
        ([{"device": "laptop", "count": 1.5}], "device 1: count is 1.5; give a whole number"),
        ([{"device": "laptop", "speed": 1}], "device 1: column 'speed' is unknown"),
        ([{"link": "lte", "gflops": 10}], "device 1: memory_gib is missing"),
        ([{"device": "laptop", "link": ["lte"]}], "device 1: link .'lte'. is unknown"),
        ([], "lists no device"),
        ({"device": "laptop"}, "something else than a list of objects"),
        ([{"device": "laptop", "count": 10**5}, {"device": "laptop"}], "more than 100000 devices"),
    ],
)
def test_files_of_devices_that_cannot_be_used(listed: Any, told: str, tmp_path: Path) -> None:
    (tmp_path / "fleet.json").write_text(json.dumps(listed))
    with pytest.raises(UsageError, match=told):
        read_fleet(tmp_path / "fleet.json")


def test_files_that_are_no_tables_of_devices(tmp_path: Path) -> None:
    (tmp_path / "fleet.json").write_text("{")
    with pytest.raises(UsageError, match="is no JSON"):
        read_fleet(tmp_path / "fleet.json")
    (tmp_path / "fleet.csv").write_text("device,gflops\nlaptop,1,2\n")
    with pytest.raises(UsageError, match="device 1: it has more entries than the header has columns"):
        read_fleet(tmp_path / "fleet.csv")
    with pytest.raises(UsageError, match="cannot be read"):
        read_fleet(tmp_path / "none.csv")


def test_the_shipped_profiles_are_of_the_tasks_as_they_come() -> None:
    digits = load("digits")
    found = profile_of(digits)
    assert found in shipped()
    assert {profile.task for profile in shipped()} == {"digits", "text"}
    for profile in shipped():
        assert profile.fixed_s > 0 and profile.sample_s > 0 and profile.gflops > 1
        for batch, seconds in zip(profile.batches, profile.seconds, strict=True):
            assert profile.fixed_s + batch * profile.sample_s == pytest.approx(seconds, rel=0.35)
    assert not found.fits(load("digits", hidden=32))
    text = next(profile for profile in shipped() if profile.task == "text")
    assert text.fits(load("text", megabytes=0.1))
    assert not text.fits(load("text", megabytes=0.1, context=16))


def test_a_profile_is_measured_for_another_model_and_survives_as_json() -> None:
    task = load("digits", hidden=32)
    found = measure(task, batches=(1, 512), repeats=5)
    assert found.fits(task)
    assert found.fixed_s >= 0 and found.sample_s > 0 and found.gflops > 0.1
    assert found.fixed_s + found.sample_s == pytest.approx(found.seconds[0], rel=1e-6)  # two sizes are met exactly
    assert ComputeProfile.from_json(found.to_json()) == found
