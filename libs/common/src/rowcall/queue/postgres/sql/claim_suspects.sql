select
  tenant, job_id, lease, attempt, lane, order_key, method_id, policy_id, request, request_id, actor,
  traceparent, tracestate, labels, lost, time_left, waiter_id, queue_id
from rowcall.claim_suspects(
  p_worker_id => %(worker_id)s,
  p_queue_id => %(queue_id)s,
  p_method_id => %(method_id)s,
  p_limit => %(limit)s::integer
)
