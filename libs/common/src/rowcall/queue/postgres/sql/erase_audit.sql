select place, erased, remains
from rowcall.erase_audit(p_tenant => %(tenant)s, p_after => %(after)s, p_limit => %(limit)s, p_act => %(act)s::jsonb)
