select fingerprint, service, method, code, kind, last_at, trace_id
from rowcall.export_incidents(
  p_tenant => %(tenant)s,
  p_after => %(after)s::text,
  p_limit => %(limit)s,
  p_act => %(act)s::jsonb
)
