select job_id
from rowcall.resolve_recorded(
  p_tenant => %(tenant)s,
  p_job_id => %(job_id)s,
  p_by => %(by)s,
  p_note => %(note)s,
  p_act => %(act)s::jsonb
)
