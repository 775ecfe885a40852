select kind, name, paused_at, paused_by, pause_note from rowcall.pauses(p_tenant => %(tenant)s)
