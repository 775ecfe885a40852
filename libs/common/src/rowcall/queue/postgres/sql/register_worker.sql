select rowcall.register_worker(
  p_worker_id => %(worker_id)s, p_name => %(name)s, p_lease => %(lease)s, p_host => %(host)s::text,
  p_release => %(release)s::text, p_version => %(version)s::text, p_slots => %(slots)s::integer,
  p_threads => %(threads)s::integer, p_apart => %(apart)s::boolean, p_up => %(up)s::interval
)
