select rowcall.expire_keys(p_limit => %(limit)s::integer, p_since => %(since)s::timestamptz)
