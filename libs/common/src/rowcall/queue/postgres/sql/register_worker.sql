select rowcall.register_worker(p_worker_id => %(worker_id)s, p_name => %(name)s, p_lease => %(lease)s)
