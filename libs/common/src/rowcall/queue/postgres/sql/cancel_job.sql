select state, waiter_id, worker_id
from rowcall.cancel_job(
  p_tenant => %(tenant)s,
  p_job_id => %(job_id)s,
  p_error => %(error)s,
  p_only_unstarted => false
)
