select rowcall.tell_load(p_worker_id => %(worker_id)s, p_queue => %(queue)s, p_slots => %(slots)s, p_running => %(running)s)
