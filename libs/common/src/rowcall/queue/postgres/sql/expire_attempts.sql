select tenant, job_id, queue_id, state, waiter_id, worker
from rowcall.expire_attempts(
  p_tenant => %(tenant)s::text[],
  p_job_id => %(job_id)s::uuid[],
  p_lease => %(lease)s::bigint[],
  p_limit => %(limit)s::integer,
  p_since => %(since)s::timestamptz,
  p_grace => %(grace)s,
  p_timeout_error => %(timeout_error)s,
  p_deadline_error => %(deadline_error)s,
  p_cancelled_error => %(cancelled_error)s
)
