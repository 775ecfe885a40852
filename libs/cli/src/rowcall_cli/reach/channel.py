"""The channel of a command: over TLS where that was said, each call with the token as its file has it then, and with what it is for.
Called by `gateway`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, cast
from urllib.parse import quote

import grpc

from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.reach.flags import Reach
from rowcall_cli.reach.tokens import check_plaintext, read_token

_MAX_MESSAGE_BYTES: Final = 64 << 20
_MAX_REASON: Final = 1000
"""Characters, as gateways take them."""
_OPTIONS: Final = (("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES), ("grpc.enable_http_proxy", 0))


class Files(NamedTuple):
    """What the files of TLS hold; None where none was named."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None


def open_one(address: str, reach: Reach) -> grpc.Channel:
    """A channel to a gateway; it connects at its first call.

    Raises CommandError (USAGE): a file of TLS, the token or the reason is not what it must be, or the token would go without TLS.
    """
    if reach.reason is not None and not 1 <= len(reach.reason) <= _MAX_REASON:
        raise CommandError(
            f"--reason has {len(reach.reason)} characters; it must have 1 to {_MAX_REASON}.", ExitCode.USAGE
        )
    channel = _transport(address, reach)
    if reach.has_token:
        check_plaintext(reach, address)
        read_token(reach)
    elif reach.reason is None:
        return channel
    return grpc.intercept_channel(channel, _Saying(reach))


def read_files(reach: Reach) -> Files:
    """The files of TLS, held against each other.

    Raises CommandError (USAGE) that names the flag, the file, and what is wrong.
    """
    if (reach.cert is None) != (reach.key is None):
        given, missing = ("--tls-cert", "--tls-key") if reach.key is None else ("--tls-key", "--tls-cert")
        raise CommandError(f"{given} is given without {missing}: a certificate has a key.", ExitCode.USAGE)
    files = Files(_read("--tls-ca", reach.ca), _read("--tls-cert", reach.cert), _read("--tls-key", reach.key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if reach.ca is not None and files.ca is not None:
        try:
            context.load_verify_locations(cadata=files.ca.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError):
            raise _wrong("--tls-ca", reach.ca, "holds no certificate in PEM") from None
    if reach.cert is not None and reach.key is not None:
        _check_pair(context, reach.cert, reach.key)
    return files


def stamp(reach: Reach) -> tuple[object, ...]:
    """What tells of the files of TLS whether they were exchanged."""
    found: list[object] = []
    for file in (reach.ca, reach.cert, reach.key):
        try:
            state = None if file is None else file.stat()
        except OSError:
            state = None
        found.append(None if state is None else (state.st_ino, state.st_mtime_ns, state.st_size))
    return tuple(found)


def _transport(address: str, reach: Reach) -> grpc.Channel:
    if not reach.secure:
        return grpc.insecure_channel(address, options=_OPTIONS)
    files = read_files(reach)
    credentials = grpc.ssl_channel_credentials(files.ca, files.key, files.cert)
    named = () if reach.name is None else (("grpc.ssl_target_name_override", reach.name),)
    return grpc.secure_channel(address, credentials, options=(*_OPTIONS, *named))


def _read(flag: str, file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        return file.read_bytes()
    except OSError as error:
        raise _wrong(flag, file, f"cannot be read: {error.strerror}") from error


def _check_pair(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    def no_password() -> str:
        # Else OpenSSL asks whoever sits at the terminal.
        raise _wrong("--tls-key", key, "is encrypted: take its password off (openssl pkey -in FILE -out FILE)")

    try:
        context.load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _wrong("--tls-key", key, f"is not the key of the certificate in {str(cert)!r}") from None
    else:
        return
    # OpenSSL does not say which of the two.
    holds = "CERTIFICATE-----" in cert.read_text(errors="replace")
    flag, file, what = ("--tls-key", key, "private key") if holds else ("--tls-cert", cert, "certificate")
    raise _wrong(flag, file, f"holds no {what} in PEM") from None


def _wrong(flag: str, file: Path, what: str) -> CommandError:
    return CommandError(f"{flag} {str(file)!r} {what}.", ExitCode.USAGE)


class _Details(NamedTuple):
    """grpc.ClientCallDetails, as an interceptor passes them on."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Saying(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Sends the token with each call, as it is when the call is made: what runs for long outlives a token. And what it is for."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Any], client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """As gRPC calls it."""
        return continuation(self._said(client_call_details), request)

    def intercept_stream_stream(
        self,
        continuation: Callable[[Any, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        """As gRPC calls it."""
        return continuation(self._said(client_call_details), request_iterator)

    def _said(self, call: grpc.ClientCallDetails) -> grpc.ClientCallDetails:
        said: list[tuple[str, str]] = []
        if self._reach.has_token:
            said.append(("authorization", f"Bearer {read_token(self._reach)}"))
        if self._reach.reason is not None:
            # Metadata is ASCII.
            said.append(("rowcall-reason", quote(self._reach.reason, safe=" ")))
        details = _Details(
            call.method,
            call.timeout,
            (*(call.metadata or ()), *said),
            call.credentials,
            call.wait_for_ready,
            call.compression,
        )
        return cast("grpc.ClientCallDetails", details)
