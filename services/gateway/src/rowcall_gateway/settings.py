"""What a gateway is told at its start, by environment (ROWCALL_…) and flags. See `rowcall.settings`."""

from __future__ import annotations

import platform
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import Field, ValidationInfo, field_validator

from rowcall.address import DEFAULT_LISTEN, Address
from rowcall.audit.signing import read_key
from rowcall.catalogue.served import ServedSettings
from rowcall.ops.settings import OpsSettings
from rowcall.settings import ClusterSettings, Duration, ProcessCount, ReadableFile, TraceSettings
from rowcall_gateway.edge.identity import IdentityMode, check_address, check_needed
from rowcall_gateway.edge.port import CertificateFiles, Plaintext, check_plaintext

T = TypeVar("T")


class GatewaySettings(ClusterSettings, ServedSettings, OpsSettings, TraceSettings):
    """How a gateway serves: where, whom, what, and how much at once."""

    program: ClassVar[str] = "rowcall-gateway"
    usage_example: ClassVar[str] = (
        "rowcall-gateway --catalogue postgresql:///rowcall_catalogue --shard a=postgresql:///rowcall_a "
        "--image documents.binpb"
    )

    identity: IdentityMode = Field(
        default=IdentityMode.INSECURE_DEV,
        description="How callers are known. jwt: by a token. mtls: by the client certificate of their connection. "
        "jwt+mtls: by both, which must agree. insecure-dev: they are believed, and the gateway listens on a loopback "
        "address only. insecure-network: they are believed, whoever reaches the port.",
        examples=["jwt"],
    )
    issuers: Path | None = Field(
        default=None,
        description="Whose tokens are taken, and what they say of their callers: a TOML or JSON file, read again when it "
        "changes. For identity jwt and jwt+mtls.",
        examples=["/etc/rowcall/issuers.toml"],
        json_schema_extra={"metavar": "FILE"},
        validate_default=True,
    )
    certificates: Path | None = Field(
        default=None,
        description="Who client certificates are, by their names: a TOML or JSON file, read again when it changes. For "
        "identity mtls and jwt+mtls.",
        examples=["/etc/rowcall/certificates.toml"],
        json_schema_extra={"metavar": "FILE"},
        validate_default=True,
    )
    listen: str = Field(
        default=DEFAULT_LISTEN,
        description="Where to listen; port 0 lets the operating system choose.",
        examples=["127.0.0.1:50051"],
        json_schema_extra={"metavar": "HOST:PORT"},
    )
    tls_cert: ReadableFile | None = Field(
        default=None,
        description="The certificate of the port, with what leads from it to who is trusted behind it (PEM): callers then come over "
        "TLS. Read again when it changes, as the next two are.",
        examples=["/etc/rowcall/tls.crt"],
        json_schema_extra={"metavar": "FILE"},
        validate_default=True,
    )
    tls_key: ReadableFile | None = Field(
        default=None,
        description="Its key (PEM, without a password).",
        examples=["/etc/rowcall/tls.key"],
        json_schema_extra={"metavar": "FILE"},
        validate_default=True,
    )
    tls_client_ca: ReadableFile | None = Field(
        default=None,
        description="Who may have signed callers' certificates (PEM): a caller without one is refused. Needed for identity mtls and "
        "jwt+mtls, which go by its names.",
        examples=["/etc/rowcall/callers-ca.crt"],
        json_schema_extra={"metavar": "FILE"},
        validate_default=True,
    )
    plaintext: Plaintext = Field(
        default=Plaintext.LOOPBACK,
        description="Where callers' tokens are taken without TLS. loopback: on a loopback address. behind-proxy: anywhere, for a proxy "
        "in front ends TLS and nobody else reaches the port.",
        examples=["behind-proxy"],
        validate_default=True,
    )
    health_listen: str | None = Field(
        default=None,
        description="Where to tell of health, and of nothing else, without TLS or a credential: for who can bring neither, such as "
        "Kubernetes' probes.",
        examples=["0.0.0.0:50052"],
        json_schema_extra={"metavar": "HOST:PORT"},
    )
    processes: ProcessCount = Field(
        default=1,
        description="How many gateway processes to run, all on the same port. Each has pools and limits of its own.",
        examples=["2"],
    )
    max_request_bytes: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] = Field(
        default=1024 * 1024, description="A larger request is refused.", examples=["1048576"]
    )
    max_batch_bytes: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] = Field(
        default=4 * 1024 * 1024, description="A larger batch of requests is refused.", examples=["4194304"]
    )
    max_call_wait: Duration = Field(
        default=timedelta(seconds=50),
        description="How long a call waits for its job at most, and without a deadline of its own.",
        examples=["50s"],
    )
    max_waiters: Annotated[int, Field(ge=1)] = Field(
        default=10_000, description="How many calls may wait for jobs at once.", examples=["10000"]
    )
    key_ttl: Duration = Field(
        default=timedelta(days=7), description="How long an idempotency key names its job.", examples=["7d"]
    )
    gather: Duration = Field(
        default=timedelta(milliseconds=10),
        description="How long a submit waits for its neighbours at most while many calls are in flight; 0 is not at all.",
        examples=["10ms"],
    )
    gather_above: Annotated[int, Field(ge=0)] = Field(
        default=8, description="How many calls in flight are many.", examples=["8"]
    )
    submit_batch: Annotated[int, Field(ge=1, le=5000)] = Field(
        default=500, description="How many calls are written in one transaction at most.", examples=["500"]
    )
    drain_notice: Duration = Field(
        default=timedelta(0),
        description="How long a stopping gateway still takes calls after its health says NOT_SERVING, so that balancers "
        "notice first.",
        examples=["5s"],
    )
    grace: Duration = Field(
        default=timedelta(seconds=30),
        description="How long a stopping gateway takes to end the calls that wait.",
        examples=["30s"],
    )

    @property
    def address(self) -> Address:
        """Where to listen."""
        return Address.parse(self.listen)

    @property
    def certificate_files(self) -> CertificateFiles | None:
        """Where the port's certificate is; None: it has none."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return CertificateFiles(self.tls_cert, self.tls_key, self.tls_client_ca)

    @property
    def max_message_bytes(self) -> int:
        """GRPC's own limit: a little above ours, so that ours answers, with an envelope."""
        return 2 * max(self.max_request_bytes, self.max_batch_bytes)

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, listen: str, info: ValidationInfo) -> str:
        address = Address.parse(listen)
        # Where the identity is wrong, as the strictest one has it: the mode that would allow it is told with it.
        check_address(info.data.get("identity", IdentityMode.INSECURE_DEV), address.host)
        if address.port and listen == info.data.get("ops_listen"):
            raise ValueError("is the address of ROWCALL_OPS_LISTEN, which has a port of its own")
        return listen

    @field_validator("tls_cert")
    @classmethod
    def _check_tls_cert(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        identity = info.data.get("identity")
        if file is None and identity is not None and identity.takes_certificates:
            raise ValueError(
                f"is not set, and identity {identity.value} goes by callers' certificates, which come over TLS only"
            )
        return file

    @field_validator("tls_key")
    @classmethod
    def _check_tls_key(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        # Where the certificate's own setting is wrong, that is told.
        if "tls_cert" in info.data and (file is None) != (info.data["tls_cert"] is None):
            raise ValueError(
                "is not set, and ROWCALL_TLS_CERT is: a certificate needs its key"
                if file is None
                else "is set without ROWCALL_TLS_CERT, the certificate of which it is the key"
            )
        return file

    @field_validator("tls_client_ca")
    @classmethod
    def _check_tls_client_ca(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        identity = info.data.get("identity")
        if file is None and identity is not None and identity.takes_certificates:
            raise ValueError(
                f"is not set, and identity {identity.value} takes whoever has a certificate that it has signed"
            )
        if file is not None and info.data.get("tls_cert", file) is None:
            raise ValueError("is set without ROWCALL_TLS_CERT: without TLS no caller shows a certificate")
        return file

    @field_validator("plaintext")
    @classmethod
    def _check_plaintext(cls, plaintext: Plaintext, info: ValidationInfo) -> Plaintext:
        identity, listen = info.data.get("identity"), info.data.get("listen")
        if identity is not None and listen is not None and info.data.get("tls_cert", listen) is None:
            check_plaintext(identity, plaintext, Address.parse(listen).host)
        return plaintext

    @field_validator("health_listen")
    @classmethod
    def _check_health_listen(cls, listen: str | None, info: ValidationInfo) -> str | None:
        if listen is None:
            return None
        address = Address.parse(listen)
        if address.port and listen == info.data.get("listen"):
            raise ValueError("is the address of ROWCALL_LISTEN; health has a port of its own here")
        return listen

    @field_validator("issuers")
    @classmethod
    def _check_issuers(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        identity = info.data.get("identity")
        if identity is not None and check_needed(file, wanted=identity.takes_tokens, identity=identity) is not None:
            # Not at a gateway's start that looks at no token.
            from rowcall_gateway.edge.credentials.issuers import read_issuers

            _read(read_issuers, file)
        return file

    @field_validator("certificates")
    @classmethod
    def _check_certificates(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        identity = info.data.get("identity")
        if (
            identity is not None
            and check_needed(file, wanted=identity.takes_certificates, identity=identity) is not None
        ):
            from rowcall_gateway.edge.credentials.certificates import read_rules

            rules = _read(read_rules, file)
            if not identity.takes_tokens and rules.without_tenant:
                places = ", ".join(f"certificate.{number}" for number in rules.without_tenant)
                raise ValueError(
                    f"says no tenant in {places}, and with identity {identity.value} there is no token that would: "
                    "write tenant there, or {tenant} in the pattern"
                )
        return file

    @field_validator("audit_key_file")
    @classmethod
    def _check_audit_key_file(cls, file: Path | None) -> Path | None:
        if file is not None:
            read_key(file)
        return file

    @field_validator("processes")
    @classmethod
    def _check_processes(cls, processes: int) -> int:
        if processes > 1 and platform.system() != "Linux":
            raise ValueError("is above 1; only Linux spreads connections over the processes that listen on a port")
        return processes

    @field_validator("max_call_wait", "key_ttl")
    @classmethod
    def _check_positive(cls, duration: timedelta) -> timedelta:
        if duration <= timedelta(0):
            raise ValueError("is not above 0")
        return duration


def _read(read: Callable[[Path], T], file: Path | None) -> T:
    """What a settings' file says. Raises ValueError: all that is wrong in it, to be read after the setting's name."""
    if file is None:
        raise ValueError("is not set")
    try:
        return read(file)
    except OSError as error:
        raise ValueError(
            f"names {str(file)!r}, which cannot be read ({error.strerror or type(error).__name__})"
        ) from None
    except ValueError as error:
        lines = str(error).replace("\n", "\n      ")
        raise ValueError(f"names {str(file)!r}, which is wrong:\n      {lines}") from None
