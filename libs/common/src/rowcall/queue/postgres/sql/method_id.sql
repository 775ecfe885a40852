select rowcall.method_id(p_name => %(name)s)
