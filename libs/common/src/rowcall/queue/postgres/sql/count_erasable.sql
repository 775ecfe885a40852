select kind, rows from rowcall.count_erasable(p_tenant => %(tenant)s, p_cap => %(cap)s)
