select name, workers, last_worker, last_until, unserved_methods from rowcall.queue_serving(p_cap => %(cap)s::integer)
