"""Heads of the audit's chains over OTLP, as log records: whether they are sent, where to, and what they say. Called by the program, and by
`rowcall_gateway.services.heads`.

The environment decides, by OpenTelemetry's own variables, as `telemetry` has it for spans: they are sent when OTEL_EXPORTER_OTLP_ENDPOINT (or
…_LOGS_ENDPOINT) is set. They wait in a bounded queue, which a thread of the SDK's empties: what does not fit is dropped, and a later head of the
same chain is good for all before it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from rowcall.telemetry import environment as otlp

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LoggerProvider

EVENT: Final = "rowcall.audit.head"
"""The records' event name."""

CHAIN: Final = "rowcall.audit.chain"
DATABASE: Final = "rowcall.audit.database"
PLACE: Final = "rowcall.audit.place"
HASH: Final = "rowcall.audit.hash"
"""Their attributes: "tenants/acme" or "system"; a shard's name or "catalogue"; a number; hexadecimal digits."""


class HeadExport:
    """Sends heads. Nothing here waits, but for `shutdown`."""

    def __init__(self, provider: LoggerProvider) -> None:
        """
        Args:
            provider: Of OpenTelemetry's SDK, with its exporter.
        """
        self._provider = provider
        self._logger = provider.get_logger("rowcall.audit")

    def tell(self, database: str, chain: str, place: int, hash_: bytes) -> None:
        """Sends a head, soon."""
        from opentelemetry._logs import LogRecord, SeverityNumber

        self._logger.emit(
            LogRecord(
                timestamp=time.time_ns(),
                severity_number=SeverityNumber.INFO,
                severity_text="INFO",
                body="audit head",
                attributes={CHAIN: chain, DATABASE: database, PLACE: place, HASH: hash_.hex()},
                event_name=EVENT,
            )
        )

    def shutdown(self) -> None:
        """Sends what is left. May take seconds: for a thread."""
        self._provider.shutdown()


def head_export_from_environment(environment: Mapping[str, str] = os.environ) -> HeadExport | None:
    """What sends heads, as the environment asks for; None if it does not.

    Raises:
        ValueError: The environment asks for something that this process does not have.
    """
    if not otlp.is_wanted("LOGS", "heads of the audit", environment):
        return None
    # As for spans: not where nobody has asked for it.
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider(resource=otlp.resource("rowcall-gateway", environment), shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    return HeadExport(provider)
