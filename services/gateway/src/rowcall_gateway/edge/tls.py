"""The certificate of the gateway's port, its key, and who may sign callers' certificates: read from files, checked, kept, and read
again.

Called by `port`, which serves with them, and by the server, which has the files looked at. Files that are wrong at the start are
refused; files that become wrong later are told of once, and what was good stays. gRPC asks for the certificate at each handshake,
in a thread of its own: it gets what is kept, and is never made to wait for a file.

Imported only where there is TLS: cryptography takes 80 ms of a start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from rowcall.apart import in_thread
from rowcall.rounds import come_round
from rowcall_gateway.edge.port import CertificateFiles

EVERY: Final = timedelta(seconds=1)
"""How often the files are looked at. They are read whole, some ten kilobytes: a mounted secret is exchanged by turning a symbolic
link, which no time of a file tells reliably."""

LARGEST: Final = 1024 * 1024
"""Bytes of one file."""

_SOON: Final = timedelta(days=14)
_SOON_SHARE: Final = 0.2
"""A certificate ends soon when less is left than this part of its time, or than two weeks where it lasts for long: those that last a
day are exchanged within hours."""

_TELL_EVERY: Final = timedelta(days=1)

_SERVER_USES: Final = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})

_log = structlog.get_logger(__name__)


class BadCertificate(Exception):
    """A file is not what it must be."""

    def __init__(self, part: str, file: Path, what: str) -> None:
        """
        Args:
            part: "cert", "key" or "client_ca": the name in `CertificateFiles`.
            file: The one meant.
            what: What is wrong with it, and what to do; never what is in it.
        """
        super().__init__(f"{str(file)!r} {what}")
        self.part = part
        self.file = file


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the files held when they were last good."""

    configuration: grpc.ServerCertificateConfiguration = field(repr=False)
    """As gRPC takes it."""
    names: Sequence[str]
    """For which DNS names, IP addresses and URIs it is."""
    begins: datetime
    ends: datetime
    """In UTC: of the certificate, or of what leads from it to who is trusted, whichever comes first."""

    def left(self, now: datetime) -> timedelta:
        """How long it is good for; below 0: it has ended."""
        return self.ends - now

    def ends_soon(self, now: datetime) -> bool:
        """Whether it should have been exchanged by now."""
        return self.left(now) < min(_SOON, (self.ends - self.begins) * _SOON_SHARE)


def read_certificate(files: CertificateFiles, now: datetime | None = None) -> Certificate:
    """Reads and checks the files.

    Args:
        files: Where they are.
        now: What is meant by "expired"; None: this moment.

    Raises:
        BadCertificate: The first thing that is wrong.
    """
    return _certificate(files, {part: _read(part, file) for part, file in _parts(files)}, now or datetime.now(UTC))


class KeptCertificate:
    """The certificate that is served with, exchanged when its files are."""

    def __init__(self, files: CertificateFiles, *, every: timedelta = EVERY) -> None:
        """Reads the files.

        Args:
            files: Where they are.
            every: How often to look at them.

        Raises:
            BadCertificate: The first thing that is wrong.
        """
        self._files = files
        self._every = every.total_seconds()
        self._seen: Mapping[str, bytes] = {part: _read(part, file) for part, file in _parts(files)}
        self._current = _certificate(files, self._seen, datetime.now(UTC))
        self._wrong_ones: Mapping[str, bytes] | str | None = None
        """What was wrong at the last look."""
        self._told_wrong = False
        self._told_at: datetime | None = None
        self._task: asyncio.Task[None] | None = None
        self._tell("certificate")

    @property
    def current(self) -> Certificate:
        """The one that new connections get."""
        return self._current

    @property
    def asks_callers(self) -> bool:
        """Whether callers must have certificates too."""
        return self._files.client_ca is not None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """For gRPC, at each handshake, from whichever thread."""
        return self._current.configuration

    def start(self) -> None:
        """Begins to look at the files, in the running event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch(), name="certificate")

    async def close(self) -> None:
        """Looks no more; what is kept stays."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def look(self) -> None:
        """Looks at the files once. What is good takes the place of what is kept; what is wrong twice running is told of, once: the
        first time it may be on its way, one file after the other."""
        found = await in_thread(_read_all, self._files)
        now = datetime.now(UTC)
        if isinstance(found, BadCertificate):
            self._wrong(found, str(found))
        elif found != self._seen:
            try:
                self._current = _certificate(self._files, found, now)
            except BadCertificate as error:
                self._wrong(error, found)
            else:
                self._seen, self._wrong_ones = found, None
                self._tell("certificate exchanged")
        else:
            self._wrong_ones = None
        if self._told_at is not None and now - self._told_at >= _TELL_EVERY:
            self._tell("certificate")

    def _wrong(self, error: BadCertificate, found: Mapping[str, bytes] | str) -> None:
        if self._wrong_ones != found:
            self._wrong_ones, self._told_wrong = found, False
        elif not self._told_wrong:
            self._told_wrong = True
            _log.warning(
                "certificate not exchanged: the files are wrong, and the one before is served on",
                setting=f"ROWCALL_TLS_{error.part.upper()}",
                file=str(error.file),
                cause=str(error),
            )

    def _tell(self, event: str) -> None:
        """Says which certificate is served, and how long it is good for: at the start, when it is exchanged, and once a day."""
        now = datetime.now(UTC)
        current = self._current
        told = {
            "file": str(self._files.cert),
            "names": list(current.names),
            "until": current.ends.isoformat(),
            "days": round(current.left(now) / timedelta(days=1), 2),
        }
        if current.left(now) <= timedelta(0):
            _log.error("certificate has expired: callers refuse it", **told)
        elif current.ends_soon(now):
            _log.warning("certificate ends soon: exchange its files", **told)
        else:
            _log.info(event, **told)
        self._told_at = now

    async def _watch(self) -> None:
        await come_round("looking at certificates", self.look, self._every, after=self._every)


def _parts(files: CertificateFiles) -> Sequence[tuple[str, Path]]:
    parts = [("cert", files.cert), ("key", files.key)]
    return parts if files.client_ca is None else [*parts, ("client_ca", files.client_ca)]


def _read_all(files: CertificateFiles) -> Mapping[str, bytes] | BadCertificate:
    try:
        return {part: _read(part, file) for part, file in _parts(files)}
    except BadCertificate as error:
        return error


def _read(part: str, file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except OSError as error:
        raise BadCertificate(part, file, f"cannot be read: {error.strerror}") from error
    if len(content) > LARGEST:
        raise BadCertificate(part, file, f"holds more than {LARGEST} bytes: it is no such file")
    return content


def _certificate(files: CertificateFiles, found: Mapping[str, bytes], now: datetime) -> Certificate:
    chain = _certificates("cert", files.cert, found["cert"])
    _check_key(files, found["key"], chain)
    _check_served(files, chain[0], now)
    client_ca = found.get("client_ca")
    if files.client_ca is not None and client_ca is not None:
        signers = _certificates("client_ca", files.client_ca, client_ca)
        if all(each.not_valid_after_utc <= now for each in signers):
            raise BadCertificate("client_ca", files.client_ca, "holds certificates that have all expired")
    return Certificate(
        grpc.ssl_server_certificate_configuration([(found["key"], found["cert"])], client_ca),
        _names(chain[0]),
        max(each.not_valid_before_utc for each in chain),
        min(each.not_valid_after_utc for each in chain),
    )


def _certificates(part: str, file: Path, content: bytes) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        # From None: nothing of what is in a file goes further, which may be a key.
        what = "holds a key" if b"PRIVATE KEY-----" in content else "holds no certificate in PEM"
        raise BadCertificate(part, file, what) from None


def _check_key(files: CertificateFiles, content: bytes, chain: Sequence[x509.Certificate]) -> None:
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise BadCertificate(
            "key", files.key, "is encrypted, and nobody is there to be asked: take its password off (openssl pkey)"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        what = "holds a certificate" if b"CERTIFICATE-----" in content else "holds no private key in PEM"
        raise BadCertificate("key", files.key, what) from None
    public = key.public_key()
    if public == chain[0].public_key():
        return
    if any(public == each.public_key() for each in chain[1:]):
        raise BadCertificate(
            "cert", files.cert, "does not begin with the certificate of the key, which must come first"
        )
    raise BadCertificate("key", files.key, f"is not the key of the certificate in {str(files.cert)!r}")


def _check_served(files: CertificateFiles, served: x509.Certificate, now: datetime) -> None:
    if served.not_valid_after_utc <= now:
        raise BadCertificate("cert", files.cert, f"expired on {served.not_valid_after_utc.isoformat()}: exchange it")
    if served.not_valid_before_utc > now:
        raise BadCertificate(
            "cert",
            files.cert,
            f"is valid from {served.not_valid_before_utc.isoformat()} on: is this machine's clock right?",
        )
    if not _names(served):
        raise BadCertificate("cert", files.cert, "is for no name (it has no subjectAltName): no caller takes it")
    try:
        usage = served.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if _SERVER_USES.isdisjoint(usage):
        raise BadCertificate(
            "cert", files.cert, "is not for servers (extendedKeyUsage without serverAuth): no caller takes it"
        )


def dns_name(content: bytes) -> str:
    """A name by which callers may know whoever shows this certificate (PEM): the first DNS name or IP address of it.

    Raises:
        ValueError: It is no certificate, or has no such name.
    """
    names = (
        x509.load_pem_x509_certificate(content).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    )
    found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    if not found:
        raise ValueError("it is for no DNS name and no IP address")
    # One of those that *.example.com is for.
    return found[0].replace("*", "any", 1)


def _names(served: x509.Certificate) -> Sequence[str]:
    try:
        names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return [
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
        *names.get_values_for_type(x509.UniformResourceIdentifier),
    ]
