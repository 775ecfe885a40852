"""Sharding: which shard a tenant lives on, and the connections to it.

Services open one `Router`; everything else is reached through it.
"""

from rowcall.sharding.model import GATEWAY_WORKLOADS, WORKER_WORKLOADS, Route, Workload
from rowcall.sharding.pools import Pool
from rowcall.sharding.router import Router
from rowcall.sharding.shard import Shard

__all__ = ["GATEWAY_WORKLOADS", "WORKER_WORKLOADS", "Pool", "Route", "Router", "Shard", "Workload"]
