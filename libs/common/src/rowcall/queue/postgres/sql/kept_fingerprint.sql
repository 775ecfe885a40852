select rowcall.kept_fingerprint(
  p_tenant => %(tenant)s,
  p_method_id => %(method_id)s::integer,
  p_request_id => %(request_id)s,
  p_request => %(request)s::bytea
)
