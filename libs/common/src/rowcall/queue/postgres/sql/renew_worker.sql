select
  alive, cancelled_tenant, cancelled_job_id, cancelled_lease, paused_queue_id, moment, number, oldest
from rowcall.renew_worker(
  p_worker_id => %(worker_id)s, p_lease => %(lease)s, p_loop_lag => %(loop_lag)s::interval, p_since => %(since)s::timestamptz
)
