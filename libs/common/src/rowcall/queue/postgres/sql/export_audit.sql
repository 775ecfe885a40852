select id, place, hash, at, actor, credential, roles, action, target, before, after, reason, trace_id
from rowcall.export_audit(
  p_tenant => %(tenant)s,
  p_after => %(after)s,
  p_until => %(until)s,
  p_limit => %(limit)s,
  p_act => %(act)s::jsonb
)
