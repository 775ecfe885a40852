-- Takes a newly placed tenant in. The shard's own route stands if it has one.
select r.epoch, r.state
from rowcall.adopt_tenant(%(tenant)s, %(epoch)s) r
