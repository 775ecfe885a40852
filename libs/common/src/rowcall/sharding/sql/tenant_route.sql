-- What a shard itself says of a tenant; no row if it never lived there.
select r.epoch, r.state
from rowcall.tenant_route(%(tenant)s) r
