"""Bytes to text."""

import pytest

from documents_example.reader import TextReader, UnreadableDocument

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "content",
    [
        "Gr\u00f6\u00dfe\nzwei\n".encode(),
        "\ufeffGr\u00f6\u00dfe\nzwei\n".encode(),
        "\ufeffGr\u00f6\u00dfe\nzwei\n".encode("utf-16-le"),
        "\ufeffGr\u00f6\u00dfe\nzwei\n".encode("utf-16-be"),
        "Gr\u00f6\u00dfe\r\nzwei\r\n".encode(),
        "Gr\u00f6\u00dfe\rzwei\r".encode(),
    ],
    ids=["utf-8", "with mark", "utf-16 little", "utf-16 big", "dos", "old mac"],
)
def test_text_is_read_whatever_its_form(content: bytes) -> None:
    assert TextReader().read("size.txt", content) == "Gr\u00f6\u00dfe\nzwei\n"


def test_tabs_form_feeds_and_colours_are_text() -> None:
    assert TextReader().read("a.txt", b"a\tb\f\x1b[1mc\x1b[0m") == "a\tb\f\x1b[1mc\x1b[0m"


@pytest.mark.parametrize(
    "content", [b"\x00", b"abc\x00def", b"\x08", b"\xff\xfea", b"\xc3\x28", b"%PDF-1.7\n\xe2\xe3\xcf\xd3"]
)
def test_binary_is_refused_with_the_place_and_a_remedy(content: bytes) -> None:
    with pytest.raises(UnreadableDocument, match=r"^the content is not text: .*\. Send "):
        TextReader().read("scan.bin", content)
