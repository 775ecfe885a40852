select rowcall.same_request(%(method_id)s::integer, %(one)s::bytea, %(other)s::bytea)
