-- Nothing is lost with a hint, so its commit does not wait for the disk. Set for this transaction alone: the
-- connection may be a pooler's.
with hint as materialized (select set_config('synchronous_commit', 'off', true) as durable)
select pg_notify(n.channel, n.payload)
from hint, unnest(%(channel)s, %(payload)s) as n (channel, payload)
where hint.durable = 'off'
