select a.job_id, c.state, c.waiter_id, c.worker_id
from unnest(%(job_id)s) as a (job_id)
cross join lateral rowcall.cancel_job(
  p_tenant => %(tenant)s,
  p_job_id => a.job_id,
  p_error => %(error)s,
  p_only_unstarted => false
) c
