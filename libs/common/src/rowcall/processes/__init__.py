"""Several processes of one program from one command: `--processes N` of gateway and worker.

The process that was started supervises; each of the others is the same program executed anew, never a fork: a process that
has gRPC's threads, or an event loop, cannot be forked. A worker starts one in the same way for jobs under suspicion.

Here: `supervisor` (the one that was started), `child` (a member, as it sees it), `member` (as the member sees itself), `ends` (what
becomes of all when one has ended).
"""

from rowcall.processes.child import Child, kill_children, own_command
from rowcall.processes.ends import End, Pauses
from rowcall.processes.member import Member
from rowcall.processes.supervisor import supervise

__all__ = ["Child", "End", "Member", "Pauses", "kill_children", "own_command", "supervise"]
