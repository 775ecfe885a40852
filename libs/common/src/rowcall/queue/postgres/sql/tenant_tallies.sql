select tenant, accepted, started, succeeded, failed, dead, cancelled from rowcall.tenant_tallies(p_tenant => %(tenant)s)
