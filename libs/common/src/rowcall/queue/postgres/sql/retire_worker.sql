select rowcall.retire_worker(p_worker_id => %(worker_id)s, p_unharmed => %(unharmed)s)
