select place, state, waiter_id
from rowcall.settle_jobs_2(p_settlement => %(settlement_2)s, p_cancelled_error => %(cancelled_error)s)
