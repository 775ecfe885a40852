select rowcall.weigh_recorded(p_tenant => %(tenant)s, p_weight => %(weight)s::double precision, p_act => %(act)s::jsonb)
