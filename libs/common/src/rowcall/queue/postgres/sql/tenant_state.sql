select r.state from rowcall.tenant_route(%(tenant)s) r
