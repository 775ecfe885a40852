select job_id, parent_job_id, method, state, created_at, finished_at, trace_id, whole
from rowcall.find_action(
  p_tenant => %(tenant)s,
  p_trace_id => %(trace_id)s::uuid,
  p_job_id => %(job_id)s::uuid,
  p_limit => %(limit)s::integer,
  p_patience => %(patience)s::interval
)
