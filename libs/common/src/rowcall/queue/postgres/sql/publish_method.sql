select rowcall.publish_method(
  p_method_id => %(method_id)s::integer,
  p_policy_id => %(policy_id)s::integer,
  p_queue_id => %(queue_id)s::integer,
  p_lane => %(lane)s::smallint,
  p_request_type => %(request_type)s,
  p_response_type => %(response_type)s
)
