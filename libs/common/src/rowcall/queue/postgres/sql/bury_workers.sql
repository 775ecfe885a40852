select worker_id, name from rowcall.bury_workers(p_grace => %(grace)s, p_by => %(by)s::uuid)
