"""Payloads of any length between processes, over links that are as slow as they are told to be; every byte is counted.

Loopback is too fast for bytes to matter, so a link is slowed down where it is sent from: a message goes in pieces, and each is
handed to the network no sooner than its last byte would have arrived, ``latency + bytes so far / throughput`` after the start.
That is a token bucket whose bucket holds one piece. Clocks are real; nobody computes what a transfer would have taken.
"""

from __future__ import annotations

import math
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

HEADER_BYTES = 8  # the length of a message, as int64, which goes ahead of it
_TAG = 0x57A9  # tells these messages from those of the program around
_PIECE = 1 << 16  # bytes, at least
_PIECES = 32  # of a message, at most
_BYTES_SENT = 200  # where Linux's struct tcp_info has tcpi_bytes_sent, a uint64 (since 4.19)


@dataclass(frozen=True)
class Pace:
    """How fast one direction of a link is: `bytes_s` bytes per second, `latency_s` until the first one arrives."""

    bytes_s: float = math.inf
    latency_s: float = 0.0

    def arrival_s(self, sent: int) -> float:
        """Seconds from the start until so many bytes have arrived."""
        return self.latency_s + sent / self.bytes_s


UNLIMITED = Pace()


@dataclass(frozen=True)
class Stream:
    """Messages that leave one after another over one link: receivers (ranks in the group) with their payloads."""

    messages: Sequence[tuple[int, bytes]]
    pace: Pace = UNLIMITED


class Wire:
    """Messages among the processes of a group, point to point over gloo.

    Lengths go first, unpaced; then exactly as many bytes as each message has, no padding.

    Args:
        group: whose backend for CPU tensors is gloo; all processes if None.

    Attributes:
        rank, size: of this process, and of the group.
        payload_bytes: that this process has handed to the network; a payload that goes to three others counts three times.
        header_bytes: likewise, of lengths. What gloo and TCP add is in neither; see `tcp_bytes_sent`.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        chosen = dist.group.WORLD if group is None else group
        assert chosen is not None, "init_process_group comes first"
        self.group = chosen
        self.rank = dist.get_rank(self.group)
        self.size = dist.get_world_size(self.group)
        self.payload_bytes = 0
        self.header_bytes = 0

    def exchange(self, streams: Sequence[Stream], sources: Sequence[int]) -> list[bytes]:
        """Send messages, streams side by side, and receive one message of every source meanwhile.

        Args:
            sources: ranks that send to this process in the same call of theirs.

        Returns:
            What each source sent, in their order.

        Raises:
            RuntimeError: when another process is gone.
        """
        began = time.perf_counter()
        messages = [message for stream in streams for message in stream.messages]
        sending = [self._send(torch.tensor([len(payload)]), to) for to, payload in messages]
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in sources]
        for work, _ in [self._receive(length, source) for length, source in zip(lengths, sources, strict=True)]:
            work.wait()
        buffers = [torch.empty(int(length), dtype=torch.uint8) for length in lengths]
        receiving = [
            self._receive(piece, source)
            for buffer, source in zip(buffers, sources, strict=True)
            for piece in _pieces(buffer)
        ]
        for at, to, piece in sorted(_timetable(streams), key=lambda entry: entry[0]):
            time.sleep(max(0.0, began + at - time.perf_counter()))
            sending.append(self._send(piece, to))
        for work, _ in [*sending, *receiving]:
            work.wait()
        self.payload_bytes += sum(len(payload) for _, payload in messages)
        self.header_bytes += HEADER_BYTES * len(messages)
        return [buffer.numpy().tobytes() for buffer in buffers]

    def all_gather(self, payload: bytes, pace: Pace = UNLIMITED) -> list[bytes]:
        """The payloads of all processes by rank, this one's too; each sends its own to all others over its one link.

        Everyone begins with the next rank, so that nobody is sent to by two at once where payloads are alike.
        """
        others = [(self.rank + step) % self.size for step in range(1, self.size)]
        sources = sorted(others)
        received = self.exchange([Stream([(other, payload) for other in others], pace)], sources)
        by_rank = dict(zip(sources, received, strict=True)) | {self.rank: payload}
        return [by_rank[rank] for rank in range(self.size)]

    # A tensor must live until its transfer is over, so it goes with the work.
    def _send(self, tensor: Tensor, to: int) -> tuple[dist.Work, Tensor]:
        work = dist.isend(tensor, dist.get_global_rank(self.group, to), group=self.group, tag=_TAG)
        assert work is not None
        return work, tensor

    def _receive(self, tensor: Tensor, source: int) -> tuple[dist.Work, Tensor]:
        work = dist.irecv(tensor, dist.get_global_rank(self.group, source), group=self.group, tag=_TAG)
        assert work is not None
        return work, tensor


def _timetable(streams: Sequence[Stream]) -> Iterator[tuple[float, int, Tensor]]:
    """When each piece may leave, in seconds from the start, and to whom."""
    for stream in streams:
        sent = 0
        for to, payload in stream.messages:
            for piece in _pieces(torch.frombuffer(bytearray(payload), dtype=torch.uint8) if payload else None):
                sent += len(piece)
                yield stream.pace.arrival_s(sent), to, piece


def _pieces(message: Tensor | None) -> Sequence[Tensor]:
    """Views of a message; sender and receiver cut it alike, as its length alone decides where."""
    if message is None or not len(message):
        return ()
    return torch.split(message, max(_PIECE, math.ceil(len(message) / _PIECES)))


def tcp_bytes_sent() -> int | None:
    """Bytes that this process has given to all TCP connections that it has open, as the kernel counts them.

    What gloo adds to messages is among them, TCP's own headers are not. None where the kernel does not tell (it is Linux
    that does, from 4.19 on).
    """
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return None
    total = 0
    for entry in folder.iterdir():
        try:
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as opened:
                if opened.family not in (socket.AF_INET, socket.AF_INET6) or opened.type != socket.SOCK_STREAM:
                    continue
                told = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:  # closed since the folder was listed
            continue
        if len(told) < _BYTES_SENT + 8:
            return None
        total += struct.unpack_from("=Q", told, _BYTES_SENT)[0]
    return total
