select queue_id, promoted from rowcall.promote_jobs(p_limit => %(limit)s::integer, p_since => %(since)s::timestamptz)
