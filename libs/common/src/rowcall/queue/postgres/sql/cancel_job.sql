select state, waiter_id, worker_id
from rowcall.cancel_recorded(
  p_tenant => %(tenant)s,
  p_job_id => array[%(job_id)s::uuid],
  p_error => %(error)s,
  p_act => %(act)s::jsonb
)
