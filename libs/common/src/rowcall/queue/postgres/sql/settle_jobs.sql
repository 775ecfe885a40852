select place, state, waiter_id
from rowcall.settle_jobs(p_settlement => %(settlement)s, p_cancelled_error => %(cancelled_error)s)
