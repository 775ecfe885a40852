select name, paused, waiting, oldest, running, accepted, started, succeeded, failed, dead, cancelled
from rowcall.queue_activity()
