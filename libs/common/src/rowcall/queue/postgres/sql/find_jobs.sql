select job_id
from rowcall.find_jobs(
  p_tenant => %(tenant)s,
  p_before => %(before)s,
  p_limit => %(limit)s::integer,
  p_states => %(states)s,
  p_method => %(method)s,
  p_queue => %(queue)s,
  p_labels => %(labels)s,
  p_fingerprint => %(error_fingerprint)s,
  p_actor => %(actor)s,
  p_request_id => %(request_id)s,
  p_parent_job_id => %(parent_job_id)s,
  p_created_from => %(created_from)s,
  p_created_to => %(created_to)s,
  p_finished_from => %(finished_from)s,
  p_finished_to => %(finished_to)s
)
