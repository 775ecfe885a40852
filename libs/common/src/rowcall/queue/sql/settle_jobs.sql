select place, state, waiter_id
from rowcall.settle_jobs(
  p_tenant => %(tenant)s,
  p_job_id => %(job_id)s,
  p_lease => %(lease)s,
  p_state => %(state)s,
  p_delay => %(delay)s,
  p_snoozed => %(snoozed)s,
  p_response => %(response)s,
  p_error => %(error)s,
  p_error_code => %(error_code)s,
  p_error_message => %(error_message)s,
  p_span_id => %(span_id)s,
  p_cancelled_error => %(cancelled_error)s
)
