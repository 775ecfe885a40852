-- A page of what was revoked, the latest first.
select r.issuer, r.subject, extract(epoch from r.before)::float8, r.number, r.created_at, r.actor, r.note
from rowcall_catalogue.list_revocations(%(issuer)s, %(below)s::bigint, %(limit)s) r
