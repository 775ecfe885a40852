select policy_id, max_attempts, backoff_initial, backoff_maximum, backoff_multiplier, timeout, retry_codes from rowcall.policies()
