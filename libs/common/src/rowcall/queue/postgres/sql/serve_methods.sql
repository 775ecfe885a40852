select rowcall.serve_methods(p_worker_id => %(worker_id)s, p_method_id => %(method_id)s, p_queues => %(queues)s::text[])
