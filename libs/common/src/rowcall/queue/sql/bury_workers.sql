select worker_id, name from rowcall.bury_workers()
