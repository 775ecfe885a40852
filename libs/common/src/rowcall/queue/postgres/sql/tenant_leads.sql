select tenant, waiting from rowcall.tenant_leads(p_tenant => %(tenant)s)
