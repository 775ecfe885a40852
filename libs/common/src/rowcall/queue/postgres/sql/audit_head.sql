select place, hash, sealed_at, checkpoint, unsealed, unsealed_since from rowcall.audit_head(p_tenant => %(tenant)s)
