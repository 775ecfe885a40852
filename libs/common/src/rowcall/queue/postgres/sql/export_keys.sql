select method_id, request_id, method, job_id, expires_at, repeated_at
from rowcall.export_keys(
  p_tenant => %(tenant)s,
  p_method_id => %(method_id)s::integer,
  p_request_id => %(request_id)s::text,
  p_limit => %(limit)s,
  p_act => %(act)s::jsonb
)
