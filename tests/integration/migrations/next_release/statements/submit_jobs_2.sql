select place, outcome, job_id, order_key, created_at
from rowcall.submit_jobs_2(p_submission => %(submission_2)s, p_key_ttl => %(key_ttl)s)
