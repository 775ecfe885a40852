select scheduled, ready, held, running, waiting, capped from rowcall.count_live(p_tenant => %(tenant)s, p_cap => %(cap)s)
