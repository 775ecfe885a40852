select place, queue_id
from rowcall.release_jobs(p_tenant => %(tenant)s, p_job_id => %(job_id)s, p_lease => %(lease)s)
