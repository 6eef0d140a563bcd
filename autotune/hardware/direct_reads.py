"""Several reads of one open file at once, from one thread.

Threads that each read a part have to be woken, and take Python's lock from whatever else runs, for every part. The kernel's
own asynchronous I/O takes all parts in one call and waits for them in another.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from autotune.errors import AutotuneError


class Part(NamedTuple):
    """Bytes ``[offset, offset + nbytes)`` of the file, and the address of the memory that they go to."""

    offset: int
    address: int
    nbytes: int


class DirectReads(Protocol):
    """Reads of a file that was opened for direct I/O; offsets, addresses and sizes are whole blocks.

    Attributes:
        how: by what means, for people.
    """

    how: str

    def read(self, parts: Sequence[Part]) -> None:
        """Read all parts; back when the last one has arrived.

        Raises:
            OSError: where a read fails.
            AutotuneError: where the file ends.
        """

    def close(self) -> None:
        """Free what is held; the file stays open."""


def open_reads(fd: int, most: int) -> DirectReads:
    """Reads of an open file, at most `most` at once: by the kernel's asynchronous I/O, or by threads where it has none."""
    try:
        return KernelReads(fd, most)
    except OSError:  # another processor, or a sandbox that forbids it
        return ThreadReads(fd, most)


# ---------------------------------------------------------------------------------------------------- asynchronous I/O


class _Request(ctypes.Structure):
    """``struct iocb`` of <linux/aio_abi.h>, on little-endian machines."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_uint32),
        ("opcode", ctypes.c_uint16),  # 0 is a read
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("nbytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_fd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """``struct io_event``."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


# Numbers of io_setup, io_destroy, io_getevents and io_submit; the C library has no functions for them.
_CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}


class KernelReads:
    """By Linux's asynchronous I/O.

    Raises:
        OSError: where there is none.
    """

    how = "asynchronous I/O"

    def __init__(self, fd: int, most: int) -> None:
        if platform.system() != "Linux" or platform.machine() not in _CALLS:
            raise OSError(errno.ENOSYS, "no asynchronous I/O known for this system")
        self._fd = fd
        self._most = most
        self._context = ctypes.c_ulong(0)
        self._libc = ctypes.CDLL(None, use_errno=True)
        setup, self._destroy, self._wait, self._submit = _CALLS[platform.machine()]
        self._call(setup, most, ctypes.byref(self._context))
        self._requests = (_Request * most)()
        self._pointers = (ctypes.c_void_p * most)()
        self._events = (_Event * most)()
        for number, request in enumerate(self._requests):
            request.fd, request.data = fd, number
            self._pointers[number] = ctypes.addressof(request)

    def _call(self, number: int, *arguments: object) -> int:
        """A system call.

        Raises:
            OSError: where it fails.
        """
        while True:
            # Numbers would else be passed as 32 bits.
            found = int(
                self._libc.syscall(
                    ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
                )
            )
            if found >= 0:
                return found
            if ctypes.get_errno() != errno.EINTR:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def read(self, parts: Sequence[Part]) -> None:
        for first in range(0, len(parts), self._most):
            self._read(parts[first : first + self._most])

    def _read(self, parts: Sequence[Part]) -> None:
        count = len(parts)
        for request, part in zip(self._requests, parts, strict=False):
            request.offset, request.address, request.nbytes = part
        submitted, failed = 0, None
        try:
            while submitted < count:
                rest = ctypes.byref(self._pointers, submitted * ctypes.sizeof(ctypes.c_void_p))
                submitted += self._call(self._submit, self._context, count - submitted, rest)
        except OSError as error:
            failed = error
        # The memory is the disk's until every read that began has ended, whatever became of the others.
        short: list[tuple[Part, int]] = []
        ended = 0
        while ended < submitted:
            got = self._call(self._wait, self._context, submitted - ended, submitted - ended, self._events, None)
            for event in self._events[:got]:
                if event.result < 0:
                    failed = failed or OSError(-event.result, os.strerror(-event.result))
                elif event.result < (part := parts[event.data]).nbytes:
                    short.append((part, event.result))
            ended += got
        if failed is not None:
            raise failed
        for part, done in short:
            _read_rest(self._fd, part, done)

    def close(self) -> None:
        if self._context.value:
            self._call(self._destroy, self._context)
            self._context = ctypes.c_ulong(0)


# ----------------------------------------------------------------------------------------------------------- threads


class ThreadReads:
    """By a thread for each part beyond the first."""

    how = "threads"

    def __init__(self, fd: int, most: int) -> None:
        self._fd = fd
        self._threads = ThreadPoolExecutor(max(1, most - 1), thread_name_prefix="autotune-read")

    def read(self, parts: Sequence[Part]) -> None:
        others = [self._threads.submit(_read_rest, self._fd, part, 0) for part in parts[1:]]
        try:
            _read_rest(self._fd, parts[0], 0)
        finally:
            failures = [other.exception() for other in others]  # waits for all
        for failure in failures:
            if failure is not None:
                raise failure

    def close(self) -> None:
        self._threads.shutdown(wait=True)


def _read_rest(fd: int, part: Part, done: int) -> None:
    """Read from byte `done` of a part on; the kernel may return less than asked for."""
    memory = memoryview((ctypes.c_char * part.nbytes).from_address(part.address)).cast("B")
    while done < part.nbytes:
        got = os.preadv(fd, [memory[done:]], part.offset + done)
        if got <= 0:
            raise AutotuneError(f"the file ended at byte {part.offset + done} while it was being read")
        done += got
