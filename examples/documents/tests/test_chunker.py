"""Text to chunks."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from documents_example.chunker import Chunk, ParagraphChunker

pytestmark = pytest.mark.unit

CHUNKER = ParagraphChunker(full=200, enough=80, overlap=60)


def lines_of(text: str, chunk: Chunk) -> str:
    return "\n".join(text.split("\n")[chunk.first_line - 1 : chunk.last_line])


def test_a_short_text_is_one_chunk() -> None:
    assert CHUNKER.chunks("a.txt", "\n\nOne.\n\n\nTwo.\n") == [Chunk("One.\n\n\nTwo.", "", 3, 6)]


def test_a_text_without_words_has_no_chunk() -> None:
    assert CHUNKER.chunks("a.txt", "") == []
    assert CHUNKER.chunks("a.txt", "\n \n\t\n") == []


def test_sections_are_chunks_of_their_own_under_their_headings() -> None:
    words = "Some words that fill the section until it holds enough to stand for itself, and a few more."
    text = f"# Pumps\n\n{words}\n\n## Seals\n\n{words}\n\n## Shafts\n\n{words}\n\n# Valves\n\n{words}\n"

    assert [chunk.heading for chunk in CHUNKER.chunks("a.md", text)] == [
        "Pumps",
        "Pumps / Seals",
        "Pumps / Shafts",
        "Valves",
    ]


def test_short_sections_share_a_chunk() -> None:
    assert len(CHUNKER.chunks("a.md", "# A\n\none\n\n# B\n\ntwo\n")) == 1


def test_comments_are_headings_in_prose_only() -> None:
    text = "# not a heading in code\n"

    assert CHUNKER.chunks("a.md", text)[0].heading == "not a heading in code"
    assert CHUNKER.chunks("a.py", text)[0].heading == ""


def test_a_fence_holds_no_headings() -> None:
    assert CHUNKER.chunks("a.md", "# Set up\n\n```\n# install\nmake\n```\n\nDone.\n")[0].heading == "Set up"


@pytest.mark.parametrize(
    ("path", "text", "heading"),
    [
        ("a.py", "class Pump:\n    pass\n", "class Pump"),
        ("a.py", "async def stop():\n    pass\n", "async def stop"),
        ("a.proto", "message Source {\n}\n", "message Source"),
        ("a.sql", "create table stock.part (\n)\n", "create table stock.part"),
        ("a.go", "func Close() error {\n}\n", "func Close"),
        ("a.rs", "pub struct S;\nstruct Valve {\n}\n", "struct Valve"),
        ("a.txt", "class 3 hydraulics are cheaper.\n", ""),
    ],
)
def test_code_stands_under_its_declarations(path: str, text: str, heading: str) -> None:
    chunker = ParagraphChunker(full=40, enough=10, overlap=0)

    assert heading in [chunk.heading for chunk in chunker.chunks(path, text)]


def test_a_chunk_that_goes_on_repeats_the_end_of_the_one_before() -> None:
    text = "\n".join(f"This is line number {number} of the text." for number in range(1, 21))

    chunks = CHUNKER.chunks("a.txt", text)

    assert len(chunks) > 3
    for before, after in pairwise(chunks):
        assert before.first_line < after.first_line <= before.last_line < after.last_line
        assert len(lines_of(text, Chunk("", "", after.first_line, before.last_line))) <= 60


def test_a_gap_of_many_blank_lines_separates() -> None:
    assert len(CHUNKER.chunks("a.txt", "one" + "\n" * 500 + "two")) == 2


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap 90 < enough 80 <= full 200 does not hold"):
        ParagraphChunker(full=200, enough=80, overlap=90)


@given(
    st.lists(st.sampled_from(["", "", "# Title", "## Part", "words of a sentence.", "x" * 150, "y " * 300, "```"])),
    st.sampled_from(["a.md", "a.py"]),
)
def test_every_line_is_in_a_chunk_that_knows_it(lines: list[str], path: str) -> None:
    text = "\n".join(lines)
    chunks = CHUNKER.chunks(path, text)

    covered = {number for chunk in chunks for number in range(chunk.first_line, chunk.last_line + 1)}
    assert {number for number, line in enumerate(lines, start=1) if line.strip()} <= covered
    for chunk in chunks:
        assert chunk.text in lines_of(text, chunk)
        assert len(chunk.text) <= 200 + 60
    assert [chunk.last_line for chunk in chunks] == sorted(chunk.last_line for chunk in chunks)
    # Nothing is lost: the characters of a text are those of its chunks, less what is repeated.
    assert all(chunk.text.strip() for chunk in chunks)
    assert sum(len(chunk.text.split()) for chunk in chunks) >= len(text.split())
