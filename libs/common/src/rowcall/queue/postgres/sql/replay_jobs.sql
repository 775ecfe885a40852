select job_id, queue_id from rowcall.replay_jobs(p_tenant => %(tenant)s, p_job_id => %(job_id)s)
