"""Sharding: which shard a tenant lives on, and the connections to it.

Services open one `Router`; everything else is reached through it.

Here: `router` (the entry), `directory` (where each tenant lives) with `routes` (what is remembered), `sources` (who knows), `placement`
(where a new one goes), `flights` and `bounded` (how it is asked), `revocations` (which tokens are refused), `bounds` (how much is let in), `published`
(images that were published), `audit` (what was done to the catalogue), `tenants` (which there are); `shard` and `pools` (connections), `capacity` (whether the servers
have room for them), `durability` (whether they keep what they acknowledge); `model` (routes and workloads as values), `faults`, `statements` with `sql/`.
"""

from rowcall.sharding.model import GATEWAY_WORKLOADS, WORKER_WORKLOADS, Route, Workload
from rowcall.sharding.pools import Pool
from rowcall.sharding.router import Router
from rowcall.sharding.shard import Shard

__all__ = ["GATEWAY_WORKLOADS", "WORKER_WORKLOADS", "Pool", "Route", "Router", "Shard", "Workload"]
