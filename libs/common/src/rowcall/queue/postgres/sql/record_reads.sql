select rowcall.record_reads(p_act => %(act)s::jsonb, p_tenant => %(tenant)s, p_job_id => %(job_id)s)
