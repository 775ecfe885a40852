select rowcall.resolve_incident(
  p_fingerprint => %(fingerprint)s,
  p_by => %(by)s,
  p_note => %(note)s,
  p_act => %(act)s::jsonb
)
