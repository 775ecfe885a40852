select
  worker_id, name, host, release, version, apart, up_since, registered_at, renewed_at, lease_until, steady, steady_since,
  loop_lag, slots, threads, slots_taken, threads_taken, methods, queues, every_queue
from rowcall.list_workers(p_name => %(name)s::text)
