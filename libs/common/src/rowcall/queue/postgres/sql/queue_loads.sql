select place, backlog, oldest from rowcall.queue_loads(p_queue => %(queue)s)
