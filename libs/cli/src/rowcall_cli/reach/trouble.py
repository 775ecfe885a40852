"""What is wrong where a channel's TLS does not come about: gRPC says "failed to connect", or nothing. Called by `gateway`, once a call
has failed.

The handshake is made once more, by Python's own TLS, which tells of each failure by its name. Nothing is sent but the beginning of
HTTP/2, by which a gateway that wants another certificate of the caller says so.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

from rowcall_cli.reach.channel import read_files
from rowcall_cli.reach.flags import Reach
from rowcall_cli.reach.tokens import host_of

PATIENCE: Final = 3.0
"""Seconds for the handshake, and for what the gateway says to it."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""How a client begins HTTP/2: https://www.rfc-editor.org/rfc/rfc9113#section-3.4, and no settings."""

# https://docs.openssl.org/3.0/man1/openssl-verification-options: X509_V_ERR_…
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAMES: Final = frozenset({62, 63, 64})
_UNKNOWN_SIGNER: Final = frozenset({2, 18, 19, 20, 21, 27})

_PLAINTEXT: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
)


def trouble(address: str, reach: Reach) -> str | None:
    """What is wrong between the command and a gateway that it could not call, and what to do; None if it is not TLS.

    Args:
        address: As it was called.
        reach: How it was called.
    """
    if address.startswith("unix"):
        return None
    port = address.rpartition(":")[2]
    host = host_of(address)
    if not port.isdigit():
        return None
    try:
        with socket.create_connection((host, int(port)), PATIENCE) as plain:
            return _over_tls(plain, host, reach) if reach.secure else _over_plaintext(plain)
    except OSError:
        return None  # nobody there: gRPC has said so


def _over_plaintext(plain: socket.socket) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it is only asked whether it speaks TLS
    try:
        with context.wrap_socket(plain):
            return "It speaks TLS: say --tls, with --tls-ca FILE where its certificate is signed by an authority of your own."
    except OSError:
        return None


def _over_tls(plain: socket.socket, host: str, reach: Reach) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # As gRPC has it: a certificate that is named is trusted, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    files = read_files(reach)
    if files.ca is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=files.ca.decode("ascii", "replace"))
    if reach.cert is not None:
        context.load_cert_chain(reach.cert, reach.key)
    name = reach.name or host
    try:
        with context.wrap_socket(plain, server_hostname=name) as secure:
            if secure.selected_alpn_protocol() != "h2":
                return "It speaks TLS, and no gRPC: check the port."
            # What a gateway thinks of the caller's certificate comes behind the handshake: gRPC's servers just hang up.
            return None if _is_answered(secure) else _hung_up(reach)
    except ssl.SSLCertVerificationError as error:
        return _unverified(error, name, reach)
    except ssl.SSLError as error:
        return _refused(error.reason or "", reach)


def _is_answered(secure: ssl.SSLSocket) -> bool:
    """Whether the beginning of HTTP/2 is answered by the same. Raises ssl.SSLError for an alert."""
    try:
        secure.sendall(_PREFACE)
        return bool(secure.recv(1))
    except ConnectionError:
        return False


def _hung_up(reach: Reach) -> str:
    if reach.cert is None:
        return "It hangs up once TLS is agreed on, as a gateway does that asks for the caller's certificate: name one with --tls-cert and --tls-key."
    return (
        "It hangs up once TLS is agreed on, as a gateway does that does not take the caller's certificate: that of --tls-cert must be signed by "
        "who the gateway trusts (its ROWCALL_TLS_CLIENT_CA), and not have expired."
    )


def _unverified(error: ssl.SSLCertVerificationError, name: str, reach: Reach) -> str:
    if error.verify_code in _OTHER_NAMES:
        return (
            f"Its certificate is not for {name!r}: call it by a name that the certificate has, or say that name with --tls-name if this "
            "address leads to it all the same, as a tunnel does."
        )
    if error.verify_code == _EXPIRED:
        return "Its certificate, or that of who signed it, has expired: whoever runs the gateway must exchange it."
    if error.verify_code == _NOT_YET_VALID:
        return "Its certificate is not valid yet, by this machine's clock: is that right?"
    if error.verify_code in _UNKNOWN_SIGNER:
        trusted = (
            "nobody whom gRPC trusts by itself: name who did with --tls-ca FILE"
            if reach.ca is None
            else f"nobody in {str(reach.ca)!r} (--tls-ca): ask whoever runs the gateway for the right file"
        )
        return f"Its certificate is signed by {trusted}. If it is the right one, somebody else answers there."
    return f"Its certificate is not accepted: {error.verify_message}."


def _refused(reason: str, reach: Reach) -> str | None:
    if reason in _PLAINTEXT:
        return "It speaks no TLS: check the port, or call without --tls, --tls-ca, --tls-cert and --tls-name on a network that is trusted."
    return _hung_up(reach) if "ALERT" in reason else None
