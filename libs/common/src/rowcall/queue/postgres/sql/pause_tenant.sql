select rowcall.pause_tenant(p_tenant => %(name)s, p_paused => %(paused)s, p_by => %(by)s, p_note => %(note)s)
