select rowcall.hold_paused(p_limit => %(limit)s::integer)
