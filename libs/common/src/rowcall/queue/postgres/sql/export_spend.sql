select
  job_id, lease, call, method, kind, provider, model, spent_at, latency, input_tokens, output_tokens, cost, currency,
  verdict, trace_id
from rowcall.export_spend(
  p_tenant => %(tenant)s,
  p_job_id => %(job_id)s::uuid,
  p_lease => %(lease)s::bigint,
  p_call => %(call)s::integer,
  p_limit => %(limit)s,
  p_act => %(act)s::jsonb
)
