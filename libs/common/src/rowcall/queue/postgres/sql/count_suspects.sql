select rowcall.count_suspects(p_queue_id => %(queue_id)s, p_method_id => %(method_id)s, p_limit => %(limit)s::integer)
