select name, paused_at, paused_by, pause_note, ready, oldest_ready_at, held, running, scheduled, capped,
  held_paused, held_suspect, held_limited
from rowcall.queue_stats(p_cap => %(cap)s::integer)
