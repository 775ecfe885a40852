"""What can go wrong with an embedded Postgres. Raised by the modules of this package, caught by whoever called `start`.

    EmbeddedPostgresError
    ├── AccountError         no operating-system account can run the server
    ├── BinariesError        no usable Postgres binaries
    ├── DataDirError         the data directory cannot be used
    │   └── DataDirInUseError    another live process uses it
    └── StartError           the server was run and did not come up
        └── PortInUseError       the port asked for is taken

Every message names what was wrong, where, and what to do.
"""


class EmbeddedPostgresError(Exception):
    """The embedded Postgres cannot be started."""


class AccountError(EmbeddedPostgresError):
    """No operating-system account can run the server (Postgres refuses to run as root)."""


class BinariesError(EmbeddedPostgresError):
    """No directory with usable `postgres` and `initdb` programs was found."""


class DataDirError(EmbeddedPostgresError):
    """The data directory cannot be used: foreign contents, another owner or another major version."""


class DataDirInUseError(DataDirError):
    """Another live process uses the data directory."""


class StartError(EmbeddedPostgresError):
    """The server was run and did not come up; the message carries the end of its log."""


class PortInUseError(StartError):
    """The TCP port asked for is taken."""
