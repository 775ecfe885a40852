select rowcall.keep_bounds(p_bounds => %(bounds)s)
