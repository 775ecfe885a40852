-- A stretch of the catalogue's chain.
select
  r.place, r.digest, r.hash, r.at, r.actor, r.credential, r.roles, r.action, r.target, r.before, r.after, r.reason,
  r.trace_id
from rowcall_catalogue.audit_chain(%(after)s, %(limit)s) r
