select rowcall.make_history_days(p_days => %(days)s::integer)
