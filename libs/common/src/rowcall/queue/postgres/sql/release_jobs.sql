select place, state, waiter_id
from rowcall.release_jobs(
  p_tenant => %(tenant)s,
  p_job_id => %(job_id)s,
  p_lease => %(lease)s,
  p_cancelled_error => %(cancelled_error)s
)
