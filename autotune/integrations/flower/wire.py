"""What Flower sends, in bytes; and settings in the types that it can send."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from autotune.errors import UsageError

_INT64 = 2**63
_SCALARS = (bool, int, float, str, bytes)


class Scale:
    """Weighs the content of messages as Flower serialises it for a client.

    Counted are the objects of which a message's content consists (records, arrays, their pieces), each with its header, and
    an object that occurs twice in a message once, as it is sent once. Not counted is what Flower puts around the content:
    the message's own metadata, and HTTP. A simulation sends nothing; it is counted what the same app would send.

    One scale is for messages that share records, such as those of a round: what they share is serialised once.
    """

    def __init__(self) -> None:
        # By identity, with the record itself, so that no other one takes its place in memory meanwhile.
        self._records: dict[int, tuple[Any, dict[str, int]]] = {}

    def content_bytes(self, content: Any) -> int:
        """Bytes of a `RecordDict`."""
        with _ids_once():
            sizes: dict[str, int] = {}
            for record in content.values():
                if id(record) not in self._records:
                    self._records[id(record)] = (record, dict(_objects(record)))
                sizes |= self._records[id(record)][1]
            return sum(sizes.values()) + len(content.deflate())


def _objects(node: Any) -> Iterator[tuple[str, int]]:
    for child in (node.children or {}).values():
        yield from _objects(child)
    yield node.object_id, len(node.deflate())


def _ids_once() -> contextlib.AbstractContextManager[None]:
    """Objects are hashed once within, not at every look at them."""
    try:
        from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute  # noqa: PLC0415
    except ImportError:  # it is no public name; without it, counting is slower and nothing else
        return contextlib.nullcontext()
    once: contextlib.AbstractContextManager[None] = no_object_id_recompute()
    return once


def sendable(settings: Mapping[str, Any], *, lists: bool = True) -> dict[str, Any]:
    """Settings as a client can be sent them: NumPy's scalars as Python's, numbers of a list of one type, None left out.

    Args:
        lists: whether lists can be sent; the older API of clients takes none.

    Raises:
        UsageError: naming the setting that cannot be sent.
    """
    out: dict[str, Any] = {}
    for name, given in settings.items():
        if not isinstance(name, str):
            raise UsageError(f"the setting {name!r} is named by a {type(name).__name__}; name settings by text")
        value = given.tolist() if hasattr(given, "tolist") else given
        if value is None:
            continue
        if isinstance(value, (list, tuple)):
            if not lists:
                raise UsageError(
                    f"the setting {name!r} is a list, which clients of Flower's older API cannot be sent; give them its "
                    "elements by names of their own, with a per_client rule"
                )
            out[name] = _alike(name, value)
        else:
            out[name] = _scalar(name, value)
    return out


def _alike(name: str, values: Iterable[Any]) -> list[Any]:
    read = [_scalar(name, value) for value in values]
    types = {type(value) for value in read}
    if types == {int, float}:
        return [float(value) for value in read]
    if len(types) > 1:
        mixed = ", ".join(sorted(t.__name__ for t in types))
        raise UsageError(f"the setting {name!r} is a list of {mixed}; clients can be sent lists of one type alone")
    return read


def _scalar(name: str, value: Any) -> Any:
    if not isinstance(value, _SCALARS):
        raise UsageError(
            f"the setting {name!r} is a {type(value).__name__}; clients can be sent numbers, text, bytes, booleans, and "
            "lists of these"
        )
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise UsageError(f"the setting {name!r} is {value}, beyond 64 bits; send it as text")
    return value
