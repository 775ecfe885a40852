-- Refuses tokens that were issued before a time, and records who did; what is refused then.
select r.issuer, r.subject, extract(epoch from r.before)::float8, r.number, r.created_at, r.actor, r.note
from rowcall_catalogue.revoke_recorded(
  %(issuer)s, %(subject)s, %(before)s, %(actor)s, %(note)s, %(act)s::jsonb
) r
