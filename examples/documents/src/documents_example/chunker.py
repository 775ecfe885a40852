"""Cutting a text into chunks that can be found and cited one by one. Called by the servicer."""

import itertools
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document."""

    text: str
    """The lines as they stand in the document."""
    heading: str
    """What the piece stands under: Markdown headings, or the declaration in source code; empty if nothing."""
    first_line: int
    """The number of its first line, from 1."""
    last_line: int
    """The number of its last line."""


class Chunker(Protocol):
    """Cuts a text into chunks."""

    @property
    def name(self) -> str:
        """Says how it cuts. Documents are indexed anew when it changes."""
        ...

    def chunks(self, path: str, text: str) -> list[Chunk]:
        """The chunks in order; none for a text without words. The path's suffix tells prose from code."""
        ...


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    text: str
    heading: str | None
    """The heading that holds from this line on, if the line brings one."""
    starts_block: bool
    """Whether the line before it was blank, or this one is a heading."""


_MARKDOWN = re.compile(r"(#{1,6})\s+(\S.*?)\s*#*$")
_DECLARATION = re.compile(
    r"""(?:export\s+|public\s+|async\s+|abstract\s+|final\s+|static\s+)*
        (?:class|def|func|function|fn|struct|interface|trait|impl|enum|message|service|rpc|type)\s+[A-Za-z_]\w*
      | create\s+(?:or\s+replace\s+)?(?:\w+\s+)?(?:table|index|view|function|procedure|type|domain|schema)\s+\S+
    """,
    re.VERBOSE | re.IGNORECASE,
)
_PROSE = frozenset({".md", ".markdown", ".mdx", ".txt", ".text"})
"""Where a line that begins with "#" is a heading; elsewhere it is a comment."""
_FENCE = re.compile(r"\s*(```|~~~)")


class ParagraphChunker:
    """Packs paragraphs until a chunk is full; starts a new one at a heading once it holds enough.

    A chunk that goes on where another was full repeats the last lines of that one, so that a sentence at the seam is
    whole somewhere.
    """

    def __init__(self, *, full: int = 700, enough: int = 300, overlap: int = 120) -> None:
        """All in characters: the size of a full chunk, from which size on a heading begins another, and how much of
        the chunk before is repeated at most. Raises ValueError unless 0 <= overlap < enough <= full."""
        if not 0 <= overlap < enough <= full:
            raise ValueError(f"overlap {overlap} < enough {enough} <= full {full} does not hold")
        self._full = full
        self._enough = enough
        self._overlap = overlap

    @property
    def name(self) -> str:
        """Its kind and its sizes."""
        return f"paragraphs-{self._full}-{self._enough}-{self._overlap}"

    def chunks(self, path: str, text: str) -> list[Chunk]:
        """The chunks in order."""
        found: list[Chunk] = []
        heading = ""
        under = ""
        gathered: list[_Line] = []
        repeated = 0
        for block in _blocks(_lines(text, PurePosixPath(path).suffix.lower() in _PROSE, self._full), self._full):
            brings = block[0].heading
            size = _size(gathered)
            if len(gathered) > repeated and (
                _size([*gathered, *block]) > self._full or (brings is not None and size >= self._enough)
            ):
                found.append(_chunk(gathered, under))
                gathered = [] if brings is not None else self._tail(gathered, block[0])
                repeated = len(gathered)
            if len(gathered) == repeated:
                under = heading if brings is None else brings
            gathered += block
            heading = next((line.heading for line in reversed(block) if line.heading is not None), heading)
        if len(gathered) > repeated:
            found.append(_chunk(gathered, under))
        return found

    def _tail(self, lines: Sequence[_Line], following: _Line) -> list[_Line]:
        kept: list[_Line] = []
        for line in reversed(lines):
            if _size([line, *kept, following]) - len(following.text) > self._overlap:
                break
            kept.insert(0, line)
        return kept


def _size(lines: Sequence[_Line]) -> int:
    """The characters of these lines, with the line ends between them."""
    if not lines:
        return 0
    return sum(len(line.text) for line in lines) + lines[-1].number - lines[0].number


def _lines(text: str, is_prose: bool, longest: int) -> Iterator[_Line]:
    """The lines that are not blank; one that is longer than a chunk comes in pieces under one number."""
    headings = _markdown_headings() if is_prose else _declarations()
    next(headings)
    after_blank = True
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            after_blank = True
            continue
        heading = headings.send(line)
        starts = after_blank or heading is not None
        for at in range(0, len(line), longest):
            yield _Line(number, line[at : at + longest], heading if at == 0 else None, starts and at == 0)
        after_blank = False


def _markdown_headings() -> Generator[str | None, str, None]:
    """Is sent the lines; answers with the titles from the top down to a line's own, where it is a heading."""
    stack: list[tuple[int, str]] = []
    fenced = False
    heading: str | None = None
    while True:
        line = yield heading
        heading = None
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and (found := _MARKDOWN.match(line)) is not None:
            level = len(found[1])
            stack = [entry for entry in stack if entry[0] < level] + [(level, found[2])]
            heading = " / ".join(title for _, title in stack)


def _declarations() -> Generator[str | None, str, None]:
    """Is sent the lines; answers with the declaration that a line begins with, where it does so at the margin."""
    heading: str | None = None
    while True:
        found = _DECLARATION.match((yield heading))
        heading = None if found is None else found[0]


def _blocks(lines: Iterator[_Line], longest: int) -> Iterator[list[_Line]]:
    """The paragraphs; one that is longer than a chunk is cut between lines."""
    block: list[_Line] = []
    size = 0
    for line in lines:
        if block and (line.starts_block or size + len(line.text) + 1 > longest):
            yield block
            block, size = [], 0
        block.append(line)
        size += len(line.text) + 1
    if block:
        yield block


def _chunk(lines: Sequence[_Line], heading: str) -> Chunk:
    text = lines[0].text + "".join(
        "\n" * (line.number - before.number) + line.text for before, line in itertools.pairwise(lines)
    )
    return Chunk(text, heading, lines[0].number, lines[-1].number)
