select queue_id, freed from rowcall.free_resumed(p_limit => %(limit)s::integer, p_front => %(front)s::boolean)
