select place, outcome, job_id, order_key
from rowcall.submit_jobs(
  p_tenant => %(tenant)s,
  p_job_id => %(job_id)s,
  p_method_id => %(method_id)s,
  p_policy_id => %(policy_id)s,
  p_queue_id => %(queue_id)s,
  p_lane => %(lane)s,
  p_last_key => %(last_key)s,
  p_step => %(step)s,
  p_run_at => %(run_at)s,
  p_request => %(request)s,
  p_request_id => %(request_id)s,
  p_fingerprint => %(fingerprint)s,
  p_actor => %(actor)s,
  p_fairness_key => %(fairness_key)s,
  p_traceparent => %(traceparent)s,
  p_tracestate => %(tracestate)s,
  p_labels => %(labels)s,
  p_waiter_id => %(waiter_id)s,
  p_key_ttl => %(key_ttl)s
)
