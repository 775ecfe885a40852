"""Reading a document: bytes to text. Called by the servicer."""

import codecs
from typing import Protocol


class UnreadableDocument(ValueError):
    """The content is not text; the message says how that was seen and what to do."""


class Reader(Protocol):
    """Makes text of a document's bytes. Another one may read PDF or HTML."""

    def read(self, path: str, content: bytes) -> str:
        """The text, with line feeds for line ends.

        Raises:
            UnreadableDocument: the content is of no kind that this reader knows.
        """
        ...


_CONTROLS = frozenset(range(32)) - {0x09, 0x0A, 0x0C, 0x0D, 0x1B}
"""What no text file holds: the C0 controls but tab, the line ends, form feed and the escape of terminal colours."""


class TextReader:
    """Reads UTF-8, and UTF-16 with a byte order mark; refuses everything else as binary."""

    def read(self, path: str, content: bytes) -> str:  # noqa: ARG002  what the content is, it says itself
        """The text of a plain text file.

        Raises:
            UnreadableDocument: the bytes do not decode, or hold control characters.
        """
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            raise UnreadableDocument(
                f"the content is not text: byte {error.start} is not {_NAMES[encoding]}. "
                "Send UTF-8, or UTF-16 with a byte order mark."
            ) from error
        at = next((at for at, character in enumerate(text) if ord(character) in _CONTROLS), None)
        if at is not None:
            raise UnreadableDocument(
                f"the content is not text: character {at} is the control character U+{ord(text[at]):04X}. "
                "Send the text of the document instead of the binary file."
            )
        return text.replace("\r\n", "\n").replace("\r", "\n")


_NAMES = {"utf-8-sig": "UTF-8", "utf-16": "UTF-16"}
