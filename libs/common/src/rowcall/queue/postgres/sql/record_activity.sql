select rowcall.record_activity(p_spans => %(spans)s::jsonb)
