select at, action, target from rowcall.audit_unplaced(p_tenant => %(tenant)s, p_limit => %(limit)s)
