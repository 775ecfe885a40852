select rowcall.renew_worker(p_worker_id => %(worker_id)s, p_lease => %(lease)s)
