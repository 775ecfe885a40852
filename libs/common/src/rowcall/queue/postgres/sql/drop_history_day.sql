select rowcall.drop_history_day(p_tries => %(tries)s::integer)
