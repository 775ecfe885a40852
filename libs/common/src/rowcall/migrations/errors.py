"""What migrating can end with. Raised by the runner; shown by `rowcall migrate` as it is."""


class MigrationError(Exception):
    """A database was not, or not wholly, migrated: what was wrong, what state it is in, and what to do."""


class UnreachableError(MigrationError):
    """The database cannot be connected to; nothing was changed."""
