select
  number, begun_at, finished_at, actor, note, erased, phase, cancelled_job_id, cancelled_state, cancelled_waiter_id,
  cancelled_worker_id
from rowcall.erase_tenant(
  p_tenant => %(tenant)s,
  p_limit => %(limit)s,
  p_by => %(by)s,
  p_note => %(note)s,
  p_error => %(error)s,
  p_linger => %(linger)s::interval,
  p_grace => %(grace)s::interval,
  p_settle => %(settle)s::interval,
  p_act => %(act)s::jsonb
)
