"""The link between the tiers: one thread, one transfer at a time, demands before prefetches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from evaluators.moe_cache.runtime.caches import Buffer
from evaluators.moe_cache.runtime.tiers import SlowTier


@dataclass(eq=False)
class Transfer:
    """Rows of one expert on their way.

    Attributes:
        first: row from which on it is fetched, up to its last.
        targets: byte buffers to fill, in the order of the rows.
        buffer: the staging buffer among them, given back when the rows were used.
        after: CUDA events that the targets are free after.
        arrived: whether it has ended, well or not.
        asked: `time.perf_counter` seconds when it was ordered.
        unwanted: a prefetch whose expert was not needed after all; its buffer goes back when it has arrived.
    """

    layer: int
    expert: int
    first: int
    targets: tuple[Tensor, ...]
    buffer: Buffer | None = None
    after: tuple[Any, ...] = ()
    arrived: bool = False
    asked: float = 0.0
    error: BaseException | None = None
    unwanted: bool = False

    def __post_init__(self) -> None:
        # A bare lock, which the link opens: an Event would cost the one that waits several more on waking.
        self._gate = threading.Lock()
        self._gate.acquire()

    @property
    def nbytes(self) -> int:
        return sum(target.numel() for target in self.targets)

    def end(self) -> None:
        """Let go of those who wait: it has arrived, or broke."""
        self.arrived = True
        self._gate.release()

    def wait(self) -> None:
        """Until it has arrived.

        Raises:
            BaseException: what broke the transfer.
        """
        if not self.arrived:
            with self._gate:
                pass
        if self.error is not None:
            raise self.error


# What a queued prefetch becomes when its turn comes: a transfer, or None where there is nothing to fetch.
Begin = Callable[[int, int], Transfer | None]


class Link:
    """Serves transfers in the order of demand; prefetches when nothing is demanded.

    A transfer that has begun is finished. A prefetch that has not begun when its layer's router is known is dropped; one for
    which there is no room waits, behind demands.

    Args:
        tier: what is read from.
        room: whether there is room for a prefetch. Whoever makes room notifies `lock`.
        begin: makes a queued prefetch a transfer.
        give_back: takes an unwanted transfer's buffer.
        bytes_s: bytes per second that the link is held to; None lets it be as fast as it is.
    """

    def __init__(
        self,
        tier: SlowTier,
        room: Callable[[], bool],
        begin: Begin,
        give_back: Callable[[Transfer], None],
        bytes_s: float | None = None,
    ) -> None:
        self._tier = tier
        self._room = room
        self._begin = begin
        self._give_back = give_back
        self._bytes_s = bytes_s
        self._demands: deque[Transfer] = deque()
        self._prefetches: deque[tuple[int, int, float]] = deque()  # layer, expert, when it was asked for
        self.lock = threading.Condition()
        self._stopped = False
        self._running: Transfer | None = None
        self._broken: BaseException | None = None  # what broke a transfer that nobody waits for
        self.begun: dict[tuple[int, int], Transfer] = {}
        # Bytes of every transfer, and the seconds that it kept the link from others, hand-over included.
        self.log: list[tuple[int, float]] = []
        self._thread = threading.Thread(target=self._run, name="autotune-link", daemon=True)
        self._thread.start()

    @property
    def at_work(self) -> bool:
        """Whether it moves something, or has something queued."""
        return self._running is not None or bool(self._demands or self._prefetches)

    def demand(self, transfers: Sequence[Transfer]) -> None:
        now = time.perf_counter()
        for transfer in transfers:
            transfer.asked = now
        with self.lock:
            self._demands.extend(transfers)
            self.lock.notify()

    def prefetch(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Queue layers and experts."""
        now = time.perf_counter()
        with self.lock:
            self._prefetches.extend((layer, expert, now) for layer, expert in wanted)
            self.lock.notify()

    def router_known(self, layer: int) -> dict[int, Transfer]:
        """Drop the layer's queued prefetches; those begun, by expert, are the caller's from now on.

        Raises:
            BaseException: what broke a transfer that turned out not to be wanted.
        """
        with self.lock:
            if self._broken is not None:
                raise self._broken
            if self._prefetches:
                self._prefetches = deque(item for item in self._prefetches if item[0] != layer)
            found = {expert: self.begun[key] for key in list(self.begun) if key[0] == layer for expert in [key[1]]}
            for expert in found:
                del self.begun[layer, expert]
        return found

    def discard(self, transfer: Transfer) -> None:
        """Give a prefetch's buffer back without using it, now or when it has arrived."""
        with self.lock:
            if transfer.arrived:
                self._let_go(transfer)
            else:
                transfer.unwanted = True

    def drain(self) -> None:
        """Forget what is queued and wait for what is not."""
        with self.lock:
            self._prefetches.clear()
            self._demands.clear()
            running = self._running
        if running is not None:
            running.wait()

    def close(self) -> None:
        with self.lock:
            self._stopped = True
            self.lock.notify()
        self._thread.join()

    def _next(self) -> Transfer | None:
        """The transfer to make now; None when there is to be no more."""
        with self.lock:
            made_room = 0.0
            while True:
                if self._stopped:
                    return None
                if self._demands:
                    self._running = self._demands.popleft()
                    return self._running
                if self._prefetches and self._room():
                    layer, expert, asked = self._prefetches.popleft()
                    transfer = self._begin(layer, expert)
                    if transfer is None:
                        continue
                    transfer.asked = max(asked, made_room)
                    self.begun[layer, expert] = self._running = transfer
                    return transfer
                self._running = None
                crowded = bool(self._prefetches)
                self.lock.wait()
                made_room = time.perf_counter() if crowded else made_room

    def _run(self) -> None:
        free = 0.0
        while (transfer := self._next()) is not None:
            began = max(free, transfer.asked)
            try:
                self._tier.read(transfer.layer, transfer.expert, transfer.first, transfer.targets, transfer.after)
            except BaseException as error:  # raised again where the bytes are waited for
                transfer.error = error
            if self._bytes_s is not None:
                _sleep_until(began + transfer.nbytes / self._bytes_s)
            free = time.perf_counter()
            self.log.append((transfer.nbytes, free - began))
            with self.lock:
                transfer.end()
                if transfer.unwanted:
                    self._let_go(transfer)

    def _let_go(self, transfer: Transfer) -> None:
        self._broken = self._broken or transfer.error
        self._give_back(transfer)


def _sleep_until(due: float) -> None:
    """Until `time.perf_counter` says so."""
    while (left := due - time.perf_counter()) > 0.0:
        time.sleep(left)
