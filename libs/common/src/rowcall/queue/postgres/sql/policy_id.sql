select rowcall.policy_id(
  p_max_attempts => %(max_attempts)s::integer,
  p_backoff_initial => %(backoff_initial)s,
  p_backoff_maximum => %(backoff_maximum)s,
  p_backoff_multiplier => %(backoff_multiplier)s::double precision,
  p_timeout => %(timeout)s,
  p_retention => %(retention)s::smallint,
  p_on_abandon => %(on_abandon)s::smallint,
  p_deadline => %(deadline)s::interval,
  p_retry_codes => %(retry_codes)s
)
