select fingerprint from rowcall.record_incidents(p_incidents => %(incidents)s::jsonb)
