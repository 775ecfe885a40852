select
  alive, cancelled_tenant, cancelled_job_id, cancelled_lease, paused_queue_id, moment, number, oldest
from rowcall.renew_worker(
  p_worker_id => %(worker_id)s, p_lease => %(lease)s, p_loop_lag => %(loop_lag)s::interval, p_since => %(since)s::timestamptz,
  p_slots_taken => %(slots_taken)s::integer, p_threads_taken => %(threads_taken)s::integer,
  p_busy_tenant => %(busy_tenant)s::text[], p_busy_job_id => %(busy_job_id)s::uuid[],
  p_busy_queue_id => %(busy_queue_id)s::integer[], p_busy_jobs => %(busy_jobs)s::integer[],
  p_busy_slots => %(busy_slots)s::integer[]
)
