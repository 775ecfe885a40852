"""Where the operations port is. A gateway's setting and a worker's."""

from __future__ import annotations

from typing import Final

from pydantic import Field, field_validator

from rowcall.address import Address
from rowcall.settings import Settings

_HERE: Final = "127.0.0.1"
"""Where a port lies that is named alone."""


class OpsSettings(Settings):
    """Where a process tells operators of itself."""

    ops_listen: str | None = Field(
        default=None,
        description="Where to tell operators of this process over HTTP: /metrics, /healthz, /readyz, /scale/QUEUE. A port alone is one of "
        "127.0.0.1. Of several processes the first has this port, the next one the next. Whoever reaches it reads it. Without, there is none.",
        examples=["127.0.0.1:9464"],
        json_schema_extra={"metavar": "[HOST:]PORT"},
    )

    @field_validator("ops_listen")
    @classmethod
    def _check_ops_listen(cls, listen: str | None) -> str | None:
        if listen is not None:
            parse_ops_address(listen)
        return listen

    def ops_address(self, number: int | None = None) -> Address | None:
        """Where the operations port is; None: there is none.

        Args:
            number: Which of several processes of one command this one is, from 1; None: it is the only one.

        Raises:
            OSError: There is no such port for this one.
        """
        if self.ops_listen is None:
            return None
        address = parse_ops_address(self.ops_listen)
        if not number or not address.port:
            return address
        port = address.port + number - 1
        if port > 65535:
            raise OSError(
                f"ROWCALL_OPS_LISTEN is port {address.port}, and process {number} would have port {port}; ports end at 65535"
            )
        return Address(address.host, port)


def parse_ops_address(text: str) -> Address:
    """Reads HOST:PORT, or a port alone.

    Raises:
        ValueError: It is neither.
    """
    try:
        return Address.parse(f"{_HERE}:{text}" if text.isdigit() else text)
    except ValueError as error:
        raise ValueError(f"{error}; or a port alone, for example 9464") from None
