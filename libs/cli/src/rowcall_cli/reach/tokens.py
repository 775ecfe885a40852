"""Where the token of a command comes from, and where it may go. Called by `channel`, for each call."""

from __future__ import annotations

import ipaddress
import os
from typing import Final

from rowcall_cli.errors import CommandError, ExitCode
from rowcall_cli.reach.flags import TOKEN_VARIABLE, Reach

LONGEST: Final = 16 * 1024
"""Characters: gRPC takes no more metadata than that by itself."""

_SCHEME: Final = "bearer"


def read_token(reach: Reach) -> str | None:
    """The token as it is now; None where there is to be none.

    Raises CommandError (USAGE): it is in two places, or in none that can be read, or no token. Never with what it is.
    """
    told = os.environ.get(TOKEN_VARIABLE) or None
    if reach.token_file is None:
        return None if told is None else _checked(told, TOKEN_VARIABLE)
    place = f"the token file {str(reach.token_file)!r}"
    if told is not None:
        raise CommandError(f"{TOKEN_VARIABLE} is set, and {place} is named too: leave one of them out.", ExitCode.USAGE)
    try:
        with reach.token_file.open("rb") as opened:
            content = opened.read(LONGEST + 2)
    except OSError as error:
        raise CommandError(
            f"{place[0].upper()}{place[1:]} cannot be read: {error.strerror}.", ExitCode.USAGE
        ) from error
    return _checked(content.decode("ascii", "replace"), place)


def check_plaintext(reach: Reach, address: str) -> None:
    """Refuses to send a token to another machine without TLS, where whoever is on the way could call with it.

    Raises CommandError (USAGE).
    """
    if reach.secure or reach.token_over_plaintext or is_local(address) or not reach.has_token:
        return
    raise CommandError(
        f"The token would go to {address} without TLS, for everybody on the way to read. Call over TLS (--tls, --tls-ca FILE), or "
        "say --token-over-plaintext where the network is trusted.",
        ExitCode.USAGE,
    )


def is_local(address: str) -> bool:
    """Whether a gateway's address is on this machine, by what it says: a loopback address, or a Unix socket."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = host_of(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """The host of HOST:PORT, [IPV6]:PORT or dns:///HOST:PORT."""
    place = address.rpartition("/")[2] if ":///" in address or address.startswith("dns:") else address
    place = place.removeprefix("dns:").removeprefix("ipv4:")
    return place.rpartition(":")[0].removeprefix("[").removesuffix("]") if ":" in place else place


def _checked(text: str, place: str) -> str:
    scheme, _, rest = text.strip().partition(" ")
    token = rest.strip() if scheme.lower() == _SCHEME else text.strip()
    wrong = None
    if not token:
        wrong = "holds no token"
    elif len(token) > LONGEST:
        wrong = f"holds more than {LONGEST} characters, hence no token"
    elif not token.isascii() or not token.isprintable() or " " in token:
        wrong = "holds something else than one token"
    if wrong is not None:
        raise CommandError(f"{place[0].upper()}{place[1:]} {wrong}.", ExitCode.USAGE)
    return token
