select rowcall.leave_bounds(p_gateway_id => %(gateway_id)s)
