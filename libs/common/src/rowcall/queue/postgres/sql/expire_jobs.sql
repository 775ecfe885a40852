select tenant, job_id, waiter_id
from rowcall.expire_jobs(
  p_limit => %(limit)s::integer, p_since => %(since)s::timestamptz, p_deadline_error => %(deadline_error)s
)
