select rowcall.pause_recorded(
  p_kind => %(kind)s,
  p_name => %(name)s,
  p_paused => %(paused)s,
  p_by => %(by)s,
  p_note => %(note)s,
  p_act => %(act)s::jsonb
)
