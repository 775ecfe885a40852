select tenant, job_id, state, attempt, response, error, traceparent
from rowcall.read_outcomes(p_tenant => %(tenant)s, p_job_id => %(job_id)s)
