select place, state, waiter_id
from rowcall.settle_and_book(
  p_settlement => %(settlement)s, p_cancelled_error => %(cancelled_error)s, p_spent => %(spent)s
)
