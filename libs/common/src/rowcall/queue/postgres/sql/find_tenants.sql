select
  tenant, epoch, state, weight, paused_at, paused_by, pause_note, number, begun_at, finished_at, actor, note, erased
from rowcall.find_tenants(p_tenant => %(tenant)s)
