"""Profiles are measured once per machine, kept whole, and shipped ones are real."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.errors import UsageError
from autotune.hardware import Environment, FfnShape, HardwareProfile, Step, known_names, load_named, load_or_measure
from autotune.hardware.__main__ import main
from autotune.hardware.cache import cache_folder, cache_path, load_cached, save_cached, write_atomically
from autotune.hardware.fingerprint import fingerprint_of
from autotune.hardware.threads import compute_threads
from autotune.hardware.tiers import BLOCK, MAX_TRANSFER_BYTES, RAM_DISK, DiskLink

SMALL = FfnShape(hidden=32, inter=32, dtype="float32")
OTHER = FfnShape(hidden=32, inter=64, dtype="float32")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "cache"))
    hardware = {"cores": 2}
    return Environment(fingerprint_of(hardware), {"hardware": hardware})


class Bench:
    """`load_or_measure` on a small file for a moment, with the steps that it took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[Step] = []

    def __call__(self, machine: Environment, *shapes: FfnShape, remeasure: bool = False) -> HardwareProfile:
        self.steps.clear()
        return load_or_measure(
            "ram<-disk", shapes, remeasure=remeasure, progress=self.steps.append, scratch=self.folder, budget_s=0.2,
            file_bytes=MAX_TRANSFER_BYTES, environment=machine,
        )  # fmt: skip

    @property
    def kinds(self) -> list[str]:
        return [step.what.split(" ")[0] for step in self.steps]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    try:
        DiskLink(tmp_path, BLOCK, BLOCK).close()
    except UsageError as reason:
        pytest.skip(f"the temporary folder has no disk with direct I/O: {reason}")
    return Bench(tmp_path)


def test_a_second_call_measures_nothing(machine: Environment, bench: Bench) -> None:
    first = bench(machine, SMALL)
    assert bench.steps == [Step(1, 2, "link ram<-disk"), Step(2, 2, f"{SMALL} on cpu")]
    assert bench(machine, SMALL) == first
    assert bench.steps == []
    assert cache_path(machine.fingerprint, RAM_DISK).is_file()


def test_only_what_is_missing_is_measured(machine: Environment, bench: Bench) -> None:
    first = bench(machine, SMALL)
    more = bench(machine, SMALL, OTHER, OTHER)
    assert bench.steps == [Step(1, 1, f"{OTHER} on cpu")]
    assert more.links == first.links
    assert more.compute[0] == first.compute[0]
    assert more.has(OTHER)


def test_compute_measured_on_other_threads_is_measured_again_and_the_link_kept(
    machine: Environment, bench: Bench
) -> None:
    first = bench(machine, SMALL)
    save_cached(first.model_copy(update={"notes": {**first.notes, "torch_threads": compute_threads() + 1}}))
    again = bench(machine, SMALL)
    assert bench.kinds == [str(SMALL)]
    assert again.links == first.links
    assert again.notes["torch_threads"] == compute_threads()
    assert bench(machine, SMALL) == again


def test_a_profile_of_transfers_by_other_means_is_measured_again(machine: Environment, bench: Bench) -> None:
    first = bench(machine, SMALL)
    save_cached(first.model_copy(update={"notes": {n: v for n, v in first.notes.items() if n != "transfers"}}))
    again = bench(machine, SMALL)
    assert bench.kinds == ["link", str(SMALL)]
    assert again.notes["transfers"] == "asynchronous I/O"


def test_measuring_again_replaces_everything(machine: Environment, bench: Bench) -> None:
    first = bench(machine, SMALL, OTHER)
    again = bench(machine, SMALL, remeasure=True)
    assert bench.kinds == ["link", str(SMALL)]
    assert again.links != first.links
    assert not again.has(OTHER)
    assert load_cached(machine, RAM_DISK) == again


def test_another_machine_does_not_reuse_it(machine: Environment, bench: Bench) -> None:
    bench(machine)
    hardware = {"cores": 4}
    bench(Environment(fingerprint_of(hardware), {"hardware": hardware}))
    assert bench.kinds == ["link"]
    assert len(list(cache_folder().iterdir())) == 2


@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 1}'])
def test_a_corrupt_cache_is_named_with_the_way_out(machine: Environment, bench: Bench, text: str) -> None:
    path = cache_path(machine.fingerprint, RAM_DISK)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UsageError, match="--remeasure") as raised:
        bench(machine)
    assert str(path) in str(raised.value)
    assert path.read_text() == text
    bench(machine, remeasure=True)
    assert load_cached(machine, RAM_DISK) is not None


def test_a_file_copied_from_another_machine_is_refused(machine: Environment, bench: Bench) -> None:
    foreign = bench(machine)
    elsewhere = Environment("f" * 16, {})
    cache_path(elsewhere.fingerprint, RAM_DISK).write_text(foreign.to_json())
    with pytest.raises(UsageError, match=r"machine .*--remeasure"):
        load_cached(elsewhere, RAM_DISK)


def test_a_failed_measurement_leaves_the_cache_as_it_was(machine: Environment, bench: Bench) -> None:
    before = bench(machine)

    def interrupt(_: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_measure("ram<-disk", [SMALL], progress=interrupt, scratch=bench.folder, environment=machine)
    assert load_cached(machine, RAM_DISK) == before


def test_an_interrupted_write_keeps_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_cache_names_the_variable(
    machine: Environment, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = bench(machine)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="AUTOTUNE_CACHE_DIR"):
        save_cached(measured)
    with pytest.raises(UsageError, match="AUTOTUNE_CACHE_DIR"):
        load_or_measure("ram<-disk")


def test_a_missing_scratch_folder_is_refused_before_measuring(machine: Environment, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--scratch DIR"):
        load_or_measure("ram<-disk", scratch=tmp_path / "absent", environment=machine)


@pytest.mark.parametrize("name", known_names())
def test_shipped_profiles_are_whole_and_say_where_they_come_from(name: str) -> None:
    shipped = load_named(name)
    assert shipped.name == name
    assert shipped.command
    assert shipped.compute
    details = shipped.environment.details
    assert shipped.environment.fingerprint == fingerprint_of(details["hardware"])
    assert details["hardware"]["cpu"]["model"]
    assert details["software"]["torch"]
    assert "hostname" not in details


def test_a_profile_is_loaded_from_a_path(machine: Environment, bench: Bench, tmp_path: Path) -> None:
    measured = bench(machine, SMALL)
    path = tmp_path / "mine.json"
    path.write_text(measured.to_json())
    assert load_named(path) == load_named(str(path)) == measured
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"mine\.json is no readable hardware profile"):
        load_named(path)
    with pytest.raises(UsageError, match="is not a file"):
        load_named(tmp_path / "absent.json")


def test_the_module_measures_a_profile_to_publish(
    machine: Environment, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "desk.json"
    arguments = ["desk", "--output", str(output), "--budget", "0.2", "--file-mib", "64", "--shape", str(SMALL)]
    assert main([*arguments, "--scratch", str(bench.folder)]) == 0
    published = load_named(output)
    assert published.name == "desk"
    assert published.command.startswith("python -m autotune.hardware desk --output")
    assert published.has(SMALL)
    assert "hostname" not in published.environment.details
    assert not cache_folder().exists()  # what is published is measured anew and apart from the cache
    assert "link ram<-disk" in capsys.readouterr().err


def test_the_module_reports_bad_usage_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["desk", "--output", str(tmp_path / "a.json"), "--shape", "cube:1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'abacus' is unknown; use one of: .*path of a JSON file") as raised:
        load_named("abacus")
    assert all(name in str(raised.value) for name in known_names())
