"""The documents of the demo: the text files of a directory. Called by `run`."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rowcall_standalone.errors import StandaloneError

MAX_BYTES = 900_000
"""What IngestDocument takes at most: a call is at most 1 MiB with everything in it."""

_PROSE = {".md", ".rst", ".txt", ".adoc", ".org", ".tex", ".html"}
_DATA = {".lock", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".svg", ".log", ".sum", ".map", ".ipynb"}
_NOT_WALKED = {"node_modules", "__pycache__", "venv", "target", "build", "dist", "site-packages"}


@dataclass(frozen=True, slots=True)
class Document:
    """A text file."""

    path: str
    """Relative to the corpus's root, with "/"."""
    content: bytes
    """UTF-8."""

    @property
    def text(self) -> str:
        """The content as text."""
        return self.content.decode("utf-8")


@dataclass(frozen=True, slots=True)
class Corpus:
    """What the demo works on."""

    root: Path
    """The directory, absolute."""
    documents: Sequence[Document]
    """Prose first, then source, then data; within each by depth and path. Never empty."""
    left_out: Mapping[str, int]
    """How many files were left out, by reason."""

    @property
    def tenant(self) -> str:
        """Whose documents these are: each directory has a tenant of its own, so that answers never mix."""
        return f"demo-{hashlib.sha256(os.fsencode(self.root)).hexdigest()[:8]}"


def collect(root: Path, limit: int) -> Corpus:
    """The text files below a directory, `limit` at most; of a git work tree those that git does not ignore.

    Raises StandaloneError when there is no such directory, or no text file in it.
    """
    resolved = root.expanduser().resolve()
    if not resolved.is_dir():
        raise StandaloneError(
            f"{root} is not a directory: name one with text files in it (--docs PATH, make demo DOCS=PATH)."
        )
    documents: list[Document] = []
    left_out: Counter[str] = Counter()
    for path in sorted(_files(resolved), key=_rank):
        if len(documents) == limit:
            left_out[f"beyond the first {limit}"] += 1
            continue
        reason, content = _read(resolved / path, path)
        if content is None:
            left_out[reason] += 1
        else:
            documents.append(Document(path, content))
    if not documents:
        found = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items())) or "no files at all"
        raise StandaloneError(f"{root} has no text files to work on ({found}): name another directory with --docs.")
    return Corpus(resolved, documents, dict(sorted(left_out.items())))


def _read(file: Path, path: str) -> tuple[str, bytes | None]:
    """The file's content, or why it is left out."""
    try:
        reason = _unsuitable(file, path)
        content = b"" if reason else file.read_bytes()
    except OSError:
        return "unreadable", None
    reason = reason or _not_text(content)
    return reason, None if reason else content


def _unsuitable(file: Path, path: str) -> str:
    if not path.isprintable():
        return "with control characters in their names"
    if file.is_symlink() or not file.is_file():
        return "not plain files"
    return f"over {MAX_BYTES // 1000} kB" if file.stat().st_size > MAX_BYTES else ""


def _not_text(content: bytes) -> str:
    if not content.strip():
        return "empty"
    try:
        return "binary" if "\0" in content.decode("utf-8") else ""
    except UnicodeDecodeError:
        return "not UTF-8 text"


def _rank(path: str) -> tuple[int, int, str]:
    name = PurePosixPath(path)
    suffix = name.suffix.lower()
    kind = 0 if suffix in _PROSE else 2 if suffix in _DATA else 1
    return kind, len(name.parts), path


def _files(root: Path) -> Iterator[str]:
    listed = _listed_by_git(root)
    yield from _walked(root) if listed is None else listed


def _listed_by_git(root: Path) -> Sequence[str] | None:
    """What git knows or would add below the directory; None where it is no work tree, or there is no git."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        answer = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except OSError:
        return None
    if answer.returncode != 0 or not answer.stdout:
        return None
    # A conflict lists a file once a side.
    return sorted({os.fsdecode(path) for path in answer.stdout.split(b"\0") if path})


def _walked(root: Path) -> Iterator[str]:
    for directory, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NOT_WALKED]
        for name in files:
            yield (Path(directory) / name).relative_to(root).as_posix()
