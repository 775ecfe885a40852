select tenant, job_id, reason, started_at, who, note, ahead
from rowcall.job_waits(p_tenant => %(tenant)s, p_job_id => %(job_id)s, p_ahead => %(ahead)s::integer)
