select node, parent, kind, name, started_at, ended_at, status, code, message, attributes, job_id
from rowcall.action_nodes(
  p_job_tenant => %(job_tenant)s,
  p_job_id => %(job_id)s,
  p_hidden => %(hidden)s,
  p_tenant => %(tenant)s,
  p_trace_id => %(trace_id)s::uuid,
  p_audit => %(audit)s::boolean,
  p_system => %(system)s::boolean,
  p_limit => %(limit)s::integer
)
