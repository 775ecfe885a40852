-- Where tenants live; those that the catalogue does not know are left out.
select t.tenant, t.shard, t.epoch
from rowcall_catalogue.tenant t
where t.tenant = any(%(tenants)s::text[])
