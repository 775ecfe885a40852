select rowcall.expire_keys(p_limit => %(limit)s::integer)
