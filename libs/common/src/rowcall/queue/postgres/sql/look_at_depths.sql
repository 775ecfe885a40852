select age, found from rowcall.look_at_depths(p_fresh => %(fresh)s)
