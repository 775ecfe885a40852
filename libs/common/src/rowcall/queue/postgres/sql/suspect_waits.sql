select rowcall.suspect_waits(p_queue_id => %(queue_id)s, p_method_id => %(method_id)s)
