"""Links really move bytes past the page cache, leave nothing behind, and refuse what they cannot measure."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autotune.errors import UsageError
from autotune.hardware.fingerprint import disk_of
from autotune.hardware.tiers import BLOCK, GPU_HOST, RAM_DISK, DiskLink, TierPair, check_scratch

MIB = 2**20


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    try:
        check_scratch(tmp_path, 16 * MIB)
        DiskLink(tmp_path, BLOCK, BLOCK).close()
    except UsageError as reason:
        pytest.skip(f"the temporary folder has no disk with direct I/O: {reason}")
    return tmp_path


def process_read_bytes() -> int:
    """Bytes that this process has fetched from the storage layer, page cache excluded."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


@pytest.mark.parametrize("depth", [1, 2, 8])
@pytest.mark.parametrize("nbytes", [1, BLOCK, 3 * BLOCK, MIB, 4 * MIB])
def test_every_transfer_reaches_the_storage_whole(scratch: Path, nbytes: int, depth: int) -> None:
    with DiskLink(scratch, 16 * MIB, 4 * MIB) as link:
        before = process_read_bytes()
        assert link.transfer(nbytes, depth) > 0
        assert process_read_bytes() - before >= -(-nbytes // BLOCK) * BLOCK


def test_what_arrives_is_what_the_file_holds(scratch: Path) -> None:
    with DiskLink(scratch, 4 * MIB, 4 * MIB) as link:  # as large as the file: the only offset is 0
        link.transfer(4 * MIB, 1)
        alone = bytes(link._buffer)
        link._buffer[:] = bytes(4 * MIB)
        link.transfer(4 * MIB, 8)
        assert bytes(link._buffer) == alone
        assert len(set(alone[:: MIB // 4])) > 1  # random bytes, nothing that a drive could compress away


def test_no_name_is_ever_left_in_the_scratch_folder(scratch: Path) -> None:
    with pytest.raises(RuntimeError, match="while measuring"), RAM_DISK.open_link(scratch, MIB, MIB):
        assert list(scratch.iterdir()) == []
        raise RuntimeError("while measuring")
    assert list(scratch.iterdir()) == []


def test_open_files_and_space_are_given_back(scratch: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with DiskLink(scratch, MIB, MIB) as link:
        link.transfer(MIB, 4)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_folder_in_memory_is_refused_by_name() -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or disk_of(shm).filesystem != "tmpfs":
        pytest.skip("no tmpfs at /dev/shm")
    with pytest.raises(UsageError, match=r"/dev/shm is tmpfs, .* --scratch DIR"):
        DiskLink(shm, MIB, MIB)


def test_a_full_disk_is_refused_before_anything_is_written(scratch: Path) -> None:
    with pytest.raises(UsageError, match=r"GiB free and the scratch file needs .* --scratch DIR"):
        DiskLink(scratch, 2**60, MIB)
    assert list(scratch.iterdir()) == []


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent is not a folder .* --scratch DIR"):
        DiskLink(tmp_path / "absent", MIB, MIB)


@pytest.mark.parametrize(("nbytes", "depth"), [(0, 1), (-5, 1), (2 * MIB, 1), (BLOCK, 3)])
def test_impossible_transfers_are_refused(scratch: Path, nbytes: int, depth: int) -> None:
    with DiskLink(scratch, MIB, MIB) as link, pytest.raises(UsageError, match="queue depth"):
        link.transfer(nbytes, depth)


def test_a_file_smaller_than_a_transfer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot serve transfers"):
        DiskLink(tmp_path, MIB, 2 * MIB)


def test_pairs_are_known_by_name() -> None:
    assert TierPair.parse("ram<-disk") is RAM_DISK
    assert TierPair.parse(GPU_HOST) is GPU_HOST
    assert (RAM_DISK.slug, RAM_DISK.devices) == ("ram-disk", ("cpu",))
    assert GPU_HOST.devices == ("cuda", "cpu")
    with pytest.raises(UsageError, match=r"'ram<-tape' is unknown; use one of: ram<-disk, gpu<-host"):
        TierPair.parse("ram<-tape")


def test_detection_follows_cuda() -> None:
    assert TierPair.detect() is (GPU_HOST if torch.cuda.is_available() else RAM_DISK)


def test_a_disk_pair_asks_for_its_folder() -> None:
    with pytest.raises(UsageError, match="--scratch DIR"), RAM_DISK.open_link():
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")
def test_without_cuda_the_gpu_pair_says_so() -> None:
    with pytest.raises(UsageError, match=r"needs a CUDA device .* use ram<-disk"), GPU_HOST.open_link():
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_receives_what_the_host_sent() -> None:
    with GPU_HOST.open_link(max_bytes=MIB) as link:
        link._host.fill_(7)  # type: ignore[attr-defined]
        assert link.transfer(MIB) > 0
        assert bool((link._device == 7).all())  # type: ignore[attr-defined]
        with pytest.raises(UsageError, match="at most"):
            link.transfer(2 * MIB)
