select id, place, hash, at, actor, credential, roles, action, target, before, after, reason, trace_id
from rowcall.list_audit(
  p_tenant => %(tenant)s,
  p_below => %(below)s::bigint,
  p_limit => %(limit)s,
  p_actor => %(actor)s,
  p_action => %(action)s,
  p_target => %(target)s
)
