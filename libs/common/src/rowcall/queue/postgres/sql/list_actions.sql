select
  job_id, trace_id, method, state, error_code, created_at, finished_at, attempts, costs, looked_to
from rowcall.list_actions(
  p_tenant => %(tenant)s,
  p_before => %(before)s::uuid,
  p_from => %(from)s::timestamptz,
  p_to => %(to)s::timestamptz,
  p_states => %(states)s::smallint[],
  p_method => %(method)s::text,
  p_min_duration => %(min_duration)s::interval,
  p_min_cost => %(min_cost)s::numeric,
  p_currency => %(currency)s::text,
  p_limit => %(limit)s::integer,
  p_look => %(look)s::integer
)
