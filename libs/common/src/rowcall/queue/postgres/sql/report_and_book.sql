select place
from rowcall.report_and_book(
  p_tenant => %(tenant)s,
  p_job_id => %(job_id)s,
  p_lease => %(lease)s,
  p_progress => %(progress)s,
  p_message => %(message)s,
  p_spent => %(spent)s
)
