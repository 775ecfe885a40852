select rowcall.add_tallies(
  p_slot => %(slot)s::smallint, p_tenant => %(tenant)s, p_queue_id => %(queue_id)s, p_accepted => %(accepted)s,
  p_started => %(started)s, p_succeeded => %(succeeded)s, p_failed => %(failed)s, p_dead => %(dead)s,
  p_cancelled => %(cancelled)s, p_answered_in_time => %(answered_in_time)s, p_answered_joined => %(answered_joined)s,
  p_answered_operation => %(answered_operation)s, p_answered_still_running => %(answered_still_running)s,
  p_answered_failed => %(answered_failed)s
)
