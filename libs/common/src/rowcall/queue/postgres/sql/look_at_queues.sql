select place, backlog, oldest from rowcall.look_at_queues(p_queue => %(queue)s)
