"""What there is in the documents: anchors that links and runbooks point at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def anchors(document: Path) -> Iterator[str]:
    """What can stand behind "#" in a link to it, as GitHub makes it of headings; and anchors that are written out."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for heading in re.findall(r"^#+ +(.+)$", text, re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
    yield from re.findall(r'<a id="([^"]+)">', text)
