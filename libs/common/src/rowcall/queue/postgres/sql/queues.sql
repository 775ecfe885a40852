select queue_id, name, paused from rowcall.queues()
