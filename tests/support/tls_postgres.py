"""A Postgres that speaks TLS itself (`ssl = on`), where this machine has one that is built so.

The wheels that tests run on otherwise are built without. Debian's is built with it: it is taken where it is installed, or where the
run was told to use it (`make test-postgres ONLY=postgres-15`).
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from rowcall.embedded import Postgres, account, binaries
from tests.support.pki import Authority, Issued
from tests.support.waiting import until

_INSTALLED = Path("/usr/lib/postgresql")
_SUPPORTED = range(15, 19)
_SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)
"""What a client asks before it begins TLS."""
_SECONDS: Final = 10.0
_HBA = """\
hostnossl all postgres 127.0.0.1/32 scram-sha-256
hostssl all test_worker 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca
"""
"""Over TLS only, but for the superuser, whom embedded servers are started and tests look at rows as. Who logs in shows a certificate,
and the worker's login nothing else."""


def programs_with_tls() -> Path | None:
    """The bin directory of a Postgres that can speak TLS: the run's own if it can. None where there is none."""
    return next((found for found in _candidates() if _is_built_with_tls(found)), None)


def _candidates() -> Iterator[Path]:
    yield binaries.find(None, account.choose(Path())).directory
    if named := os.environ.get("POSTGRES_15"):
        yield Path(named)
    yield from (_INSTALLED / str(major) / "bin" for major in _SUPPORTED)


def _is_built_with_tls(programs: Path) -> bool:
    if not (programs / "postgres").exists():
        return False
    described = subprocess.run(
        [programs / "postgres", "--describe-config"], capture_output=True, check=False, text=True
    )
    # name, when it can be set, group, type, default: "none" in a build without.
    rows = (line.split("\t") for line in described.stdout.splitlines())
    return any(row[0] == "ssl_ciphers" and row[4] != "none" for row in rows)


@dataclass(frozen=True, slots=True)
class Session:
    """A client's session, as the server has it."""

    application: str
    user: str
    encrypted: bool
    subject: str | None
    """Of the certificate that the client showed: "/CN=…"."""
    serial: int | None
    """Its number."""


class TlsPostgres:
    """An embedded server whose certificate is exchanged as an operator does it: the files, then a reload."""

    def __init__(self, server: Postgres, clients: Authority) -> None:
        """
        Args:
            server: Running, of programs that speak TLS; it does from the first `show` on.
            clients: Who must have signed a client's certificate.
        """
        self.server = server
        self._cluster = server.data_dir / "cluster"
        self._write("ca.crt", clients.pem)
        self._write("pg_hba.conf", _HBA.encode())
        self.execute("alter system set ssl_ca_file = 'ca.crt'")
        self.execute("alter system set ssl = on")

    async def show(self, shown: Issued) -> None:
        """Has it show another certificate to whoever connects; returns when it does."""
        self._write("server.crt", shown.cert_pem)
        self._write("server.key", shown.key_pem)
        self.execute("select pg_reload_conf()")
        # A reload has no answer.
        await until(lambda: self._shown() == shown.cert_pem)

    def execute(self, query: str) -> Sequence[Any]:
        """As superuser, without TLS."""
        with psycopg.connect(self.server.dsn("postgres"), autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def sessions(self) -> list[Session]:
        """Of services: those that are none of the superuser's."""
        rows = self.execute(
            "select application_name, usename, ssl, client_dn, client_serial::bigint from pg_stat_activity join pg_stat_ssl using (pid)"
            " where backend_type = 'client backend' and usename <> 'postgres'"
        )
        return [Session(*row) for row in rows]

    def end_sessions(self) -> None:
        """As a restart of the server would."""
        self.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where backend_type = 'client backend' and usename <> 'postgres'"
        )

    def _shown(self) -> bytes | None:
        """The certificate that a new connection is shown, in PEM; None while there is no TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.server.port), _SECONDS) as plain:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                return None
            with context.wrap_socket(plain) as secure:
                found = secure.getpeercert(binary_form=True)
        return None if found is None else ssl.DER_cert_to_PEM_cert(found).encode()

    def _write(self, name: str, content: bytes) -> None:
        """A file of the server's account's, for nobody else; in one step, for it may be read at any time."""
        owner = self._cluster.stat()
        new = self._cluster / f"{name}.new"
        new.touch(0o600)
        new.write_bytes(content)
        os.chown(new, owner.st_uid, owner.st_gid)
        new.rename(self._cluster / name)
