select
  name, paused, waiting, oldest, running, accepted, started, succeeded, failed, dead, cancelled, answered_in_time, answered_joined,
  answered_operation, answered_still_running, answered_failed
from rowcall.queue_activity()
