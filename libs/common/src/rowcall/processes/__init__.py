"""Several processes of one program from one command: `--processes N` of gateway and worker.

The process that was started supervises; each of the others is the same program executed anew, never a fork: a process that
has gRPC's threads, or an event loop, cannot be forked.
"""

from rowcall.processes.member import Member
from rowcall.processes.supervisor import supervise

__all__ = ["Member", "supervise"]
