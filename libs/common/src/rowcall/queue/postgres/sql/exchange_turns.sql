select place, last_key
from rowcall.exchange_turns(
  p_tenant => %(tenant)s,
  p_queue_id => %(queue_id)s,
  p_lane => %(lane)s,
  p_last_key => %(last_key)s
)
