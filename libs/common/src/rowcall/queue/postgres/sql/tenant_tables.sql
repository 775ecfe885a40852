select name, tenant_column from rowcall.tenant_tables()
