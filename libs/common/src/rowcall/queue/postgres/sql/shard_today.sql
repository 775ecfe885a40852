select started, weight from rowcall.shard_today()
