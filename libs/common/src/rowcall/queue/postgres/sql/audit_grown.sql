select tenant, place, hash from rowcall.audit_grown(p_within => %(within)s)
