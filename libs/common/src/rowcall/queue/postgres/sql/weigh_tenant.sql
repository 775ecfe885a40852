select rowcall.weigh_tenant(p_tenant => %(tenant)s, p_weight => %(weight)s::double precision)
