"""Text that every machine with Python has: the standard library's source, docstrings, tables and language reference.

Files and topics are split into training and held-out parts by a hash of their name, so that the split is the same on
every machine. Topics of the language reference quote each other at length, so a paragraph that a held-out document has
is taken out of the training documents too.
"""

from __future__ import annotations

import ast
import hashlib
import os
import pydoc_data.topics
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError

Kind = Literal["source", "docs", "docstrings", "tables"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_BLANK_LINES = re.compile(rb"\n\s*\n")

# Modules that are data in Python's syntax: character maps and entity tables, in columns.
_TABLES = ("encodings/", "html/entities.py", "mimetypes.py", "stringprep.py", "token.py", "idlelib/keycodes.py")
# Copies of somebody else's code, tests and caches are not the library itself, and distributions strip some of them.
_SKIPPED = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "__pycache__",
    "lib2to3",
    "pydoc_data",
    "ensurepip",
}
_HELD_OUT_OF = 12  # one document in so many is held out
_PARAGRAPH = 80  # bytes from which a paragraph is its document's own and not a phrase that any text has


@dataclass(frozen=True)
class Document:
    """One named text, UTF-8 encoded."""

    name: str
    kind: Kind
    text: bytes

    @property
    def held_out(self) -> bool:
        """Whether the text is kept out of training; decided by its name alone."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4]) % _HELD_OUT_OF == 0


def standard_library(folder: Path | None = None) -> tuple[Document, ...]:
    """The documents of a standard library, sorted by name.

    Args:
        folder: the library's folder; that of the running interpreter if None.

    Raises:
        UsageError: when the folder holds no Python source.
    """
    root = Path(os.__file__).parent if folder is None else folder
    documents: list[Document] = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if _SKIPPED & set(path.relative_to(root).parts[:-1]):
            continue
        text = path.read_bytes()
        documents.append(Document(name, "tables" if name.startswith(_TABLES) else "source", text))
        docstrings = "\n\n".join(_docstrings(text))
        if docstrings:
            # The held-out rule must agree for a module and its docstrings, so both carry the module's name.
            documents.append(Document(name, "docstrings", docstrings.encode()))
    if not documents:
        raise UsageError(f"the standard library's folder {root} holds no .py file; give the folder that holds os.py")
    topics: dict[str, str] = pydoc_data.topics.topics
    documents += [Document(f"topic:{name}", "docs", text.encode()) for name, text in sorted(topics.items())]
    return _without_held_out_paragraphs(documents)


def paragraphs(text: bytes) -> list[tuple[bytes, bytes]]:
    """The blocks between blank lines, each beside itself with its white space evened out, for comparison."""
    return [(block, b" ".join(block.split())) for block in _BLANK_LINES.split(text)]


def _without_held_out_paragraphs(documents: Sequence[Document]) -> tuple[Document, ...]:
    held = {plain for d in documents if d.held_out for _, plain in paragraphs(d.text) if len(plain) >= _PARAGRAPH}
    kept: list[Document] = []
    for document in documents:
        if document.held_out:
            kept.append(document)
            continue
        own = [block for block, plain in paragraphs(document.text) if plain not in held]
        kept.append(replace(document, text=b"\n\n".join(own)))
    return tuple(kept)


def _docstrings(source: bytes) -> list[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # templates and files of another Python version: they have source, no docstrings
        return []
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    return [text for node in nodes if (text := ast.get_docstring(node))]


def joined(documents: Iterable[Document], kind: Kind, held_out: bool) -> npt.NDArray[np.uint8]:
    """All text of one kind and one side of the split, one newline between documents; shape ``(bytes,)``.

    Raises:
        UsageError: when there is none.
    """
    texts = [d.text for d in documents if d.kind == kind and d.held_out == held_out]
    if not texts:
        raise UsageError(
            f"the corpus has no {'held-out' if held_out else 'training'} text of kind {kind!r}; known: {KINDS}"
        )
    return np.frombuffer(b"\n".join(texts), dtype=np.uint8)
