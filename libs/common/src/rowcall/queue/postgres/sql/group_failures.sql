select
  method, error_fingerprint, jobs, first_finished_at, last_finished_at, error_code, error_message, last_job_id, tenants,
  last_tenant
from rowcall.group_failures(
  p_tenant => %(tenant)s::text,
  p_method => %(method)s,
  p_finished_from => %(finished_from)s,
  p_limit => %(limit)s::integer
)
