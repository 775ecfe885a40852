select rowcall.delete_recorded(p_tenant => %(tenant)s, p_job_id => %(job_id)s, p_act => %(act)s::jsonb)
