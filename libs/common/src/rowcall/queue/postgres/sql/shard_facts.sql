select shard, fingerprint_key from rowcall.shard_facts()
