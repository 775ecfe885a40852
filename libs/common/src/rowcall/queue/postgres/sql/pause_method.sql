select rowcall.pause_method(p_name => %(name)s, p_paused => %(paused)s, p_by => %(by)s, p_note => %(note)s)
