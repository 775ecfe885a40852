select rowcall.forget_turns(p_limit => %(limit)s::integer)
