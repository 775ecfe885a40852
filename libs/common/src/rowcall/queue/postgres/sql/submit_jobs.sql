select place, outcome, job_id, order_key, created_at
from rowcall.submit_jobs(p_submission => %(submission)s, p_key_ttl => %(key_ttl)s)
