"""What can be wrong with a descriptor image. Raised while images are loaded, shown to whoever starts a service."""

from __future__ import annotations

from collections.abc import Sequence


class ImageError(ValueError):
    """Images that cannot be served as they are; the message has a line for each problem.

    A line names the image, the file, the method and the field as far as they are known, and what to do.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        """At least one problem."""
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
