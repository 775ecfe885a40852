select rowcall.cut_audit(
  p_tenant => %(tenant)s,
  p_place => %(place)s,
  p_hash => %(hash)s,
  p_made_at => %(made_at)s,
  p_signature => %(signature)s
)
