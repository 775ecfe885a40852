select
  tenant, job_id, state, lane, queue, method, attempt, max_attempts, created_at, run_at, started_at, finished_at,
  cancel_requested_at, worker, actor, request_id, traceparent, labels, attempts, span_id, error, request, response
from rowcall.list_jobs(
  p_tenant => %(tenant)s,
  p_before => %(before)s,
  p_done => %(done)s,
  p_method => %(method)s,
  p_limit => %(limit)s::integer,
  p_request => %(request)s,
  p_response => %(response)s
)
