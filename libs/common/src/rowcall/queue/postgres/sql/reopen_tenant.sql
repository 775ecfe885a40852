select rowcall.reopen_tenant(p_tenant => %(tenant)s, p_act => %(act)s::jsonb)
