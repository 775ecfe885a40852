-- What was revoked since, the earliest first.
select r.issuer, r.subject, extract(epoch from r.before)::float8, r.number
from rowcall_catalogue.revocations_since(%(number)s, %(limit)s) r
