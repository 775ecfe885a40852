select rowcall.delete_job(p_tenant => %(tenant)s, p_job_id => %(job_id)s)
