select
  fingerprint, service, method, code, kind, location, count, first_at, last_at, trace_id, first_version, last_version,
  resolved_at, resolved_by, resolve_note, regressions
from rowcall.list_incidents(p_fingerprint => %(fingerprint)s, p_limit => %(limit)s)
