-- A page of the tenants, by name.
select t.tenant, t.shard, t.epoch
from rowcall_catalogue.tenant t
where t.tenant > %(after)s and (%(shard)s::text = '' or t.shard = %(shard)s)
order by t.tenant
limit %(limit)s
