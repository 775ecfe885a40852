-- A page of what was done to the catalogue, the latest first.
select r.place, r.hash, r.at, r.actor, r.credential, r.roles, r.action, r.target, r.before, r.after, r.reason, r.trace_id
from rowcall_catalogue.list_audit(%(below)s::bigint, %(limit)s, %(actor)s, %(action)s, %(target)s) r
