select c.job_id, c.state, c.waiter_id, c.worker_id
from rowcall.cancel_recorded(
  p_tenant => %(tenant)s,
  p_job_id => %(job_id)s,
  p_error => %(error)s,
  p_act => %(act)s::jsonb
) c
