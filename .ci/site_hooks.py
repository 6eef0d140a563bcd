"""What the documentation's site needs beside its pages: the source files that they refer to.

Pages link to files outside `docs/`, as people read them in the repository too. Each such file is copied into the site below
`source/`, so that the link holds there as well, without a network and without knowing where the repository is kept.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

FOLDER = "source"
_LINK = re.compile(r"(\]\()([^)\s#:]+)")


def _outside(page: str, target: str) -> str | None:
    """Where a page's relative link leads, from the repository's root; None where it stays within `docs/`."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith("docs/") or path.startswith("..") else path


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that pages refer to, as they are."""
    root = Path(config.docs_dir).parent
    wanted = {
        path
        for page in files.documentation_pages()
        for _, target in _LINK.findall(page.content_string)
        if (path := _outside(page.src_uri, target)) is not None and (root / path).is_file()
    }
    for path in sorted(wanted):
        files.append(File.generated(config, f"{FOLDER}/{path}", abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links outside `docs/` to the copies. One that has none is left, for the strict build to complain about."""

    def replaced(match: re.Match[str]) -> str:
        path = _outside(page.file.src_uri, match[2])
        if path is None or files.get_file_from_path(f"{FOLDER}/{path}") is None:
            return match[0]
        return match[1] + posixpath.relpath(f"{FOLDER}/{path}", posixpath.dirname(page.file.src_uri))

    return _LINK.sub(replaced, markdown)
