select tenant, place, hash, sealed from rowcall.seal_audit(p_limit => %(limit)s)
