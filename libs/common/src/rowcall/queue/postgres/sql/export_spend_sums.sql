select day, method, kind, provider, model, currency, calls, input_tokens, output_tokens, cost
from rowcall.export_spend_sums(
  p_tenant => %(tenant)s,
  p_day => %(day)s::date,
  p_skip => %(skip)s,
  p_limit => %(limit)s,
  p_act => %(act)s::jsonb
)
