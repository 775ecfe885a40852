select rowcall.elect(p_role => %(role)s, p_worker_id => %(worker_id)s, p_term => %(term)s)
