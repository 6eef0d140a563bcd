"""Text from files: the standard library's source, and a user's own."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from autotune.errors import UsageError
from evaluators.federated.tasks.data import Ints

VOCABULARY = 128
_OTHER = 127  # all that is neither printable ASCII, a tab nor a new line
_MOST_GROUPS = 12
_SLICES = 10  # of a text that has no parts of its own

# Modules of the standard library by what they are for. What is named nowhere is left out, as are tests, copies of others'
# code and tables in Python's syntax; what a version of Python lacks is not there.
FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "asynchrony": ("asyncio", "asyncore", "asynchat", "selectors", "contextlib", "concurrent"),
    "mail": ("email", "mailbox", "smtplib", "smtpd", "imaplib", "poplib", "nntplib", "mailcap", "mimetypes"),
    "windows": ("tkinter", "turtle", "curses"),
    "markup": ("xml", "html", "xmlrpc", "plistlib"),
    "processes": ("multiprocessing", "subprocess", "threading", "queue", "sched", "signal", "pty"),
    "testing": ("unittest", "doctest", "pdb", "bdb", "cmd", "trace", "traceback", "profile", "pstats", "timeit"),
    "imports": ("importlib", "zipimport", "pkgutil", "runpy", "modulefinder", "site", "venv", "sysconfig"),
    "web": ("http", "urllib", "socketserver", "wsgiref", "ftplib", "socket", "ssl", "webbrowser", "ipaddress", "uuid"),
    "numbers": ("_pydecimal", "fractions", "statistics", "random", "numbers", "datetime", "_pydatetime", "calendar"),
    "files": ("zipfile", "tarfile", "gzip", "bz2", "lzma", "shutil", "tempfile", "pathlib", "_pyio", "os", "glob", "posixpath"),
    "language": ("inspect", "typing", "ast", "dis", "tokenize", "dataclasses", "enum", "functools", "collections", "pickle"),
    "texts": ("argparse", "optparse", "configparser", "csv", "json", "difflib", "textwrap", "string", "logging", "re"),
})  # fmt: skip
_NOT_THE_LIBRARY = {"test", "tests", "idle_test", "__pycache__"}


def symbols(text: bytes) -> Ints:
    """Bytes as symbols below `VOCABULARY`: printable ASCII, tab and new line as they are, one symbol for all else."""
    table = np.full(256, _OTHER, dtype=np.int64)
    for byte in (9, 10, *range(32, 127)):
        table[byte] = byte
    return table[np.frombuffer(text, dtype=np.uint8)]


def standard_library(folder: Path | None = None) -> dict[str, bytes]:
    """Source text of each family of modules, files in order of their names.

    Args:
        folder: of the library; that of the running Python if None.

    Raises:
        UsageError: where the folder holds no source.
    """
    root = Path(sysconfig.get_paths()["stdlib"]) if folder is None else folder
    found = {}
    for family, modules in FAMILIES.items():
        inside = [path for module in modules for path in (root / module).rglob("*.py")]
        own = [path for path in inside if not _NOT_THE_LIBRARY & set(path.relative_to(root).parts)]
        files = sorted([*own, *(path for module in modules if (path := root / f"{module}.py").is_file())])
        if files:
            found[family] = b"\n".join(path.read_bytes() for path in files)
    if not found:
        raise UsageError(
            f"the standard library's folder {str(root)!r} holds no source; use a Python that comes with its .py files, or text "
            "of your own"
        )
    return found


def own_text(path: Path) -> dict[str, bytes]:
    """The text of a file, or of all files of a folder, by source.

    A folder's sources are what lies at its top, the smallest ones together where there are more than a dozen. A single file,
    or a folder of one, has no such parts: its sources are ten slices of equal length. Hidden files, and files with a zero
    byte, which are no text, are left out.

    Raises:
        UsageError: where there is no text.
    """
    if not path.exists():
        raise UsageError(f"text {str(path)!r} does not exist; give a file or a folder of text")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    sources: dict[str, list[bytes]] = {}
    for file in files:
        inside = file.relative_to(path).parts or (file.name,)
        text = b"" if any(part.startswith(".") for part in inside) and file != path else file.read_bytes()
        if text and b"\0" not in text:
            sources.setdefault(inside[0], []).append(text)
    if not sources:
        raise UsageError(f"text {str(path)!r} holds no text; give a file or a folder of text")
    texts = {name: b"\n".join(parts) for name, parts in sources.items()}
    return _slices(*texts.values()) if len(texts) == 1 else _merged(texts)


def _slices(text: bytes) -> dict[str, bytes]:
    ends = [len(text) * i // _SLICES for i in range(_SLICES + 1)]
    return {f"part {i + 1}": text[ends[i] : ends[i + 1]] for i in range(_SLICES)}


def _merged(texts: Mapping[str, bytes]) -> dict[str, bytes]:
    """The largest sources as they are, and one of all others."""
    if len(texts) <= _MOST_GROUPS:
        return dict(texts)
    largest = set(sorted(texts, key=lambda name: -len(texts[name]))[: _MOST_GROUPS - 1])
    kept = {name: text for name, text in texts.items() if name in largest}
    return {**kept, "others": b"\n".join(text for name, text in texts.items() if name not in largest)}
