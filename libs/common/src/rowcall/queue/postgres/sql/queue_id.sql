select rowcall.queue_id(p_name => %(name)s)
