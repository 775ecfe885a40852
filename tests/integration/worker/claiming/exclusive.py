"""A servicer that only one process can have at a time, as if it listened on a port: `--servicer …exclusive:register`."""

from __future__ import annotations

import os

from rowcall.probe.v1.probe_pb2_grpc import add_ProbeServiceServicer_to_server
from rowcall_worker import RegistrationError, Worker
from rowcall_worker.probe import ProbeServicer


def register(worker: Worker) -> None:
    """Registers the probe, once on this machine."""
    try:
        os.close(os.open(os.environ["EXCLUSIVE_FILE"], os.O_CREAT | os.O_EXCL))
    except FileExistsError as error:
        raise RegistrationError("taken by another process") from error
    add_ProbeServiceServicer_to_server(ProbeServicer(worker.name), worker)
