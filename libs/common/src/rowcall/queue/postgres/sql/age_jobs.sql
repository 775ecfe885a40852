select queue_id, aged from rowcall.age_jobs(p_limit => %(limit)s::integer, p_front => %(front)s::boolean)
