select state, waiter_id, worker_id
from rowcall.leave_job(p_tenant => %(tenant)s, p_job_id => %(job_id)s, p_error => %(error)s, p_cancel => %(cancel)s)
