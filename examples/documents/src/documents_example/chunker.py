"""Cutting a text into chunks that can be found and cited one by one. Called by the servicer."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
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

    def chunks(self, text: str) -> list[Chunk]:
        """The chunks in order; none for a text without any."""
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
_FENCE = re.compile(r"\s*(```|~~~)")


class ParagraphChunker:
    """Packs paragraphs until a chunk is full; starts a new one at a heading once it holds enough.

    A chunk that goes on where another was full repeats the last lines of that one, so that a sentence at the seam is
    whole somewhere.
    """

    def __init__(self, *, full: int = 1000, enough: int = 400, overlap: int = 160) -> None:
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

    def chunks(self, text: str) -> list[Chunk]:
        """The chunks in order."""
        found: list[Chunk] = []
        heading = ""
        under = ""
        gathered: list[_Line] = []
        size = repeated = 0
        for block in _blocks(_lines(text, self._full), self._full):
            length = sum(len(line.text) + 1 for line in block)
            brings = block[0].heading
            if len(gathered) > repeated and (
                size + length > self._full or (brings is not None and size >= self._enough)
            ):
                found.append(_chunk(gathered, under))
                gathered = [] if brings is not None else self._tail(gathered)
                repeated = len(gathered)
                size = sum(len(line.text) + 1 for line in gathered)
            if len(gathered) == repeated:
                under = heading if brings is None else brings
            gathered += block
            size += length
            for line in block:
                heading = heading if line.heading is None else line.heading
        if len(gathered) > repeated:
            found.append(_chunk(gathered, under))
        return found

    def _tail(self, lines: list[_Line]) -> list[_Line]:
        kept: list[_Line] = []
        room = self._overlap
        for line in reversed(lines):
            room -= len(line.text) + 1
            if room < 0:
                break
            kept.insert(0, line)
        return kept


def _lines(text: str, longest: int) -> Iterator[_Line]:
    """The lines that are not blank; one that is longer than a chunk comes in pieces under one number."""
    stack: list[tuple[int, str]] = []
    fenced = False
    after_blank = True
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            after_blank = True
            continue
        if _FENCE.match(line):
            fenced = not fenced
        heading = None
        markdown = None if fenced else _MARKDOWN.match(line)
        if markdown is not None:
            level = len(markdown[1])
            stack = [entry for entry in stack if entry[0] < level] + [(level, markdown[2])]
            heading = " / ".join(title for _, title in stack)
        elif not fenced and (declaration := _DECLARATION.match(line)) is not None and after_blank:
            heading = declaration[0]
        starts = after_blank or heading is not None
        for at in range(0, len(line), longest):
            yield _Line(number, line[at : at + longest], heading if at == 0 else None, starts and at == 0)
        after_blank = False


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


def _chunk(lines: list[_Line], heading: str) -> Chunk:
    parts: list[str] = []
    for before, line in zip([None, *lines], lines, strict=False):
        if before is not None:
            parts.append("" if before.number == line.number else "\n" * min(2, line.number - before.number))
        parts.append(line.text)
    return Chunk("".join(parts), heading, lines[0].number, lines[-1].number)
