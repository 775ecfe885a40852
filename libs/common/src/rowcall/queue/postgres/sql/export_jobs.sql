select
  tenant, job_id, state, lane, queue, method, attempt, max_attempts, created_at, run_at, started_at, finished_at,
  cancel_requested_at, worker, actor, request_id, traceparent, labels, attempts, span_id, error, request, response,
  deadline, lost, replays, parent_job_id, progress, progress_message, progress_at, held, error_fingerprint, resolved_at,
  resolved_by, resolve_note, request_type, response_type, lease, location, worker_version
from rowcall.export_jobs(
  p_tenant => %(tenant)s,
  p_after => %(after)s::uuid,
  p_limit => %(limit)s,
  p_bytes => %(bytes)s,
  p_payloads => %(payloads)s,
  p_act => %(act)s::jsonb
)
