"""What a gateway serves now. Made by the server, and exchanged by it, whole, when an image is published.

Whoever asks it asks for each call anew; a call that runs goes on with the method that it began with.
"""

from __future__ import annotations

from rowcall.catalogue.grants import AccessTable
from rowcall.catalogue.images import Catalogue


class Offered:
    """The catalogue, and who may call what of it."""

    __slots__ = ("catalogue", "table")

    catalogue: Catalogue
    """The methods that are served."""
    table: AccessTable
    """Who may call each of them."""

    def __init__(self, catalogue: Catalogue, table: AccessTable) -> None:
        self.catalogue = catalogue
        self.table = table

    def replace(self, catalogue: Catalogue, table: AccessTable) -> None:
        """From now on serves these."""
        self.catalogue = catalogue
        self.table = table
