select tenant, day, method, provider, model, currency, calls, input_tokens, output_tokens, cost
from rowcall.sum_spend(
  p_tenant => %(tenant)s,
  p_job_id => %(job_id)s::uuid,
  p_trace_id => %(trace_id)s::uuid,
  p_first => %(first)s::date,
  p_last => %(last)s::date,
  p_method => %(method)s,
  p_provider => %(provider)s,
  p_model => %(model)s,
  p_by => %(by)s,
  p_limit => %(limit)s
)
