select place, hash, made_at, signature from rowcall.audit_checkpoint(p_tenant => %(tenant)s)
