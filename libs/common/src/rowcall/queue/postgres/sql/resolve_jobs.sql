select job_id from rowcall.resolve_jobs(p_tenant => %(tenant)s, p_job_id => %(job_id)s, p_by => %(by)s, p_note => %(note)s)
