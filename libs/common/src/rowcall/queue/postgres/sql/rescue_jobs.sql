select tenant, job_id, queue_id, state, waiter_id, worker
from rowcall.rescue_jobs(
  p_limit => %(limit)s::integer,
  p_front => %(front)s,
  p_lost_limit => %(lost_limit)s::integer,
  p_lost_error => %(lost_error)s,
  p_cancelled_error => %(cancelled_error)s
)
