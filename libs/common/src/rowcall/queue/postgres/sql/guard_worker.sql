select rowcall.guard_worker(p_worker_id => %(worker_id)s)
