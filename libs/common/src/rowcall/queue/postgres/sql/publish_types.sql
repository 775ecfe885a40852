select rowcall.publish_types(p_name => %(name)s, p_fields => %(fields)s)
