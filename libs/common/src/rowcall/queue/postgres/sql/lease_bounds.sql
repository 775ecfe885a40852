select place, gateways, rate, in_flight, in_flight_wanted, waiters, waiters_wanted
from rowcall.lease_bounds(
  p_gateway_id => %(gateway_id)s,
  p_target => %(target)s,
  p_rate => %(rate)s,
  p_in_flight => %(in_flight)s,
  p_in_flight_wanted => %(in_flight_wanted)s,
  p_waiters => %(waiters)s,
  p_waiters_wanted => %(waiters_wanted)s
)
