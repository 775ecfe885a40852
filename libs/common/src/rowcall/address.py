"""An address that a service listens on, as settings and the health check read it, and how it is refused."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, Self

DEFAULT_LISTEN: Final = "127.0.0.1:50051"
"""Where a gateway listens that is not told where."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port."""

    host: str
    """A name or an IP address, without brackets."""
    port: int
    """0 lets the operating system choose."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads HOST:PORT or [IPV6]:PORT.

        Raises:
            ValueError: It is neither.
        """
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]") if host.startswith("[") == host.endswith("]") else ""
        if not host or (":" in host) != text.startswith("[") or not port.isascii() or not port.isdigit():
            raise ValueError("is not an address; write host:port, for example 127.0.0.1:50051 or [::1]:50051")
        if int(port) > 65535:
            raise ValueError(f"has the port {port}; ports end at 65535")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host, by what it is called."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def cannot_listen(address: Address) -> OSError:
    """The error of an address that cannot be listened on."""
    return OSError(f"cannot listen on {address}: is the address this machine's, and the port free?")
