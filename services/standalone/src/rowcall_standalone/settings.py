"""What `rowcall serve` is told at its start: a gateway's settings and a worker's, by the same names. See `rowcall.settings`."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from rowcall_gateway.settings import GatewaySettings
from rowcall_worker.settings import WorkerSettings


class ServeSettings(GatewaySettings, WorkerSettings):
    """How gateway and worker serve in one process: every setting of theirs, under its name; what both have is said once."""

    program: ClassVar[str] = "rowcall serve"
    usage_example: ClassVar[str] = (
        "rowcall serve --catalogue postgresql:///rowcall_catalogue --shard a=postgresql:///rowcall_a "
        "--image documents.binpb --servicer documents.worker:register"
    )

    @property
    def end_within(self) -> timedelta:
        """How long an end in order may take: the notice to balancers, then calls and jobs within one grace. The workers' part
        of it is theirs even where the calls took longer than theirs, so a second more."""
        return self.drain_notice + self.grace + timedelta(seconds=1)
