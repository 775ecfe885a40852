select trace_id, span_id, parent_span_id, kind, status, started_at, duration, name, message, attributes
from rowcall.export_activity(
  p_tenant => %(tenant)s,
  p_trace_id => %(trace_id)s::uuid,
  p_span_id => %(span_id)s::bigint,
  p_limit => %(limit)s::integer,
  p_act => %(act)s::jsonb
)
