"""Certificates for tests: an authority, and what it signs, as PEM files. Never of use outside."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def cert_pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """Its key, for who may read it."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def encrypted_key_pem(self, password: bytes) -> bytes:
        """Its key under a password."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))


class Authority:
    """Signs certificates; has its own in `ca`."""

    def __init__(self, name: str = "Test authority", *, begins: timedelta = -DAY, ends: timedelta = 10 * DAY) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self._numbers = itertools.count(2)
        self._name = _named(name)
        now = datetime.now(UTC)
        self.ca = Issued(
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256()),
            key,
        )

    @property
    def pem(self) -> bytes:
        """What whoever trusts it is given."""
        return self.ca.cert_pem

    def issue(
        self,
        *names: str,
        common_name: str = "test",
        begins: timedelta = -DAY,
        ends: timedelta = 5 * DAY,
        uses: Sequence[x509.ObjectIdentifier] = (),
    ) -> Issued:
        """A certificate for DNS names, IP addresses and URIs, from `begins` to `ends` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(common_name))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(next(self._numbers))
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        if uses:
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), False)
        return Issued(builder.sign(self.ca.key, hashes.SHA256()), key)


class Files:
    """A certificate, its key and an authority in files, as a mounted secret has them: each name is a link to a directory that is
    exchanged whole."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()
        self.cert, self.key, self.ca = (directory / name for name in ("tls.crt", "tls.key", "ca.crt"))
        for file in (self.cert, self.key, self.ca):
            file.symlink_to(Path("..data") / file.name)

    def put(self, issued: Issued, ca: bytes = b"", *, key: bytes | None = None, cert: bytes | None = None) -> None:
        """Exchanges what they hold, as Kubernetes does: in one step, and with other inodes."""
        whole = self._directory / f"..{next(self._numbers)}"
        whole.mkdir()
        (whole / "tls.crt").write_bytes(issued.cert_pem if cert is None else cert)
        (whole / "tls.key").touch(0o600)
        (whole / "tls.key").write_bytes(issued.key_pem if key is None else key)
        (whole / "ca.crt").write_bytes(ca)
        link = self._directory / "..next"
        link.symlink_to(whole.name)
        link.rename(self._directory / "..data")


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
