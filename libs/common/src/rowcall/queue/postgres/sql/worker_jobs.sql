select tenant, job_id, method, queue, attempt, started_at
from rowcall.worker_jobs(p_name => %(name)s, p_tenant => %(tenant)s::text)
