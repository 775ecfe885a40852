select
  place, digest, hash, erased, at, actor, credential, roles, action, target, before, after, reason, trace_id
from rowcall.audit_chain(p_tenant => %(tenant)s, p_after => %(after)s, p_limit => %(limit)s)
