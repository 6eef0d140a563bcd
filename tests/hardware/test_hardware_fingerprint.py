"""The fingerprint changes with the hardware that decides measured times, and with nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.hardware.fingerprint import (
    cpu_facts,
    current_environment,
    disk_of,
    fingerprint_of,
    gpu_facts,
    hardware_facts,
    round_memory_gib,
)

X86 = """processor\t: 0
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9354 32-Core Processor
stepping\t: 1
flags\t\t: fpu vme sse2 avx2 avx512f avx512_bf16 {extra}

processor\t: 1
model name\t: AMD EPYC 9354 32-Core Processor
"""
ARM = """processor\t: 0
Features\t: fp asimd evtstrm sve bf16 i8mm
CPU implementer\t: 0x41
CPU variant\t: 0x0
CPU part\t: 0xd40
"""


def test_this_machine_has_one_stable_fingerprint(tmp_path: Path) -> None:
    first, second = current_environment(tmp_path), current_environment(tmp_path)
    assert first.fingerprint == second.fingerprint
    assert len(first.fingerprint) == 16
    assert int(first.fingerprint, 16) >= 0
    assert json.loads(json.dumps(first.to_dict())) == first.to_dict()


def test_the_fingerprint_digests_the_hardware_and_not_the_host_or_its_software(tmp_path: Path) -> None:
    environment = current_environment(tmp_path)
    assert environment.fingerprint == fingerprint_of(environment.details["hardware"])
    digested = json.dumps(environment.details["hardware"])
    for left_out in ("hostname", "python", "torch"):
        assert left_out not in digested
    assert environment.details["software"]["torch"]
    assert environment.details["hostname"]


def test_a_kernel_that_renames_flags_leaves_the_processor_the_same() -> None:
    assert cpu_facts(X86.format(extra="")) == cpu_facts(X86.format(extra="retpoline ibrs_enhanced tsc_known_freq"))


def test_another_instruction_set_or_model_is_another_processor() -> None:
    plain = cpu_facts(X86.format(extra=""))
    assert plain["model"] == "AMD EPYC 9354 32-Core Processor"
    assert plain["family_model_stepping"] == "25/17/1"
    assert cpu_facts(X86.format(extra="amx_bf16"))["isa_digest"] != plain["isa_digest"]
    assert cpu_facts(X86.format(extra="").replace("9354", "9654")) != plain


def test_an_arm_core_is_named_by_its_numbers() -> None:
    facts = cpu_facts(ARM)
    assert facts["model"] == "0x41 0xd40 0x0"
    assert facts["isa_digest"] != cpu_facts(ARM.replace("sve ", ""))["isa_digest"]


@pytest.mark.parametrize("change", ["cpu", "cores", "memory_gib", "gpus", "disk"])
def test_each_part_of_the_hardware_counts(change: str, tmp_path: Path) -> None:
    facts = hardware_facts(tmp_path)
    assert fingerprint_of({**facts, change: "another"}) != fingerprint_of(facts)
    assert fingerprint_of(dict(reversed(facts.items()))) == fingerprint_of(facts)


def test_without_a_scratch_folder_the_disk_does_not_count() -> None:
    assert "disk" not in hardware_facts()


@given(st.integers(2**30, 2**45), st.integers(0, 2**20))
def test_rounded_memory_is_close(total: int, reserved: int) -> None:
    rounded = round_memory_gib(total - reserved)
    assert abs(rounded * 2**30 / total - 1) < 1 / 16


def test_memory_that_differs_by_what_a_kernel_reserves_is_the_same() -> None:
    assert round_memory_gib(24 * 2**30) == round_memory_gib(24 * 2**30 - 300 * 2**20) == 24.0
    assert round_memory_gib(48 * 2**30) == 48.0


def test_gpus_are_read_from_the_drivers_listing() -> None:
    assert gpu_facts("NVIDIA H200, 143771, 570.86.15\nNVIDIA GB10, [N/A], 580.1\n") == [
        {"name": "NVIDIA H200", "memory_gib": 144.0, "driver": "570.86.15"},
        {"name": "NVIDIA GB10", "memory_gib": None, "driver": "580.1"},
    ]
    assert gpu_facts("") == []


def test_the_disk_of_a_folder_is_the_one_of_its_longest_mount() -> None:
    assert disk_of(Path("/proc/self")).filesystem == "proc"
    assert disk_of(Path("/")).filesystem != "proc"
