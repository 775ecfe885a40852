select tenant, place, hash from rowcall.audit_due(p_before => clock_timestamp() - %(kept)s::interval, p_limit => %(limit)s)
