-- Worker processes: each registers under an identity new at every start and renews
-- one lease for all its jobs. The dead can neither renew nor claim.
set local role rowcall_owner;

-- Whether a job is RUNNING, asked of a row that is found otherwise: by its key, or by what it was
-- marked with. Spelled so that Postgres does not see job_running in it, which has an entry for
-- every job that a worker ever claimed while a snapshot is held, and would be walked instead. Where
-- that index is wanted it is "state = 3". Inlined; only functions with a search_path of their own
-- call it.
create function rowcall.is_running(p_state smallint)
returns boolean
language sql immutable parallel safe
as $$
  select p_state::integer = 3
$$;

-- p_host to p_up are for people: what the process is, and for how long it has run. All may be null.
create function rowcall.register_worker(
  p_worker_id uuid, p_name text, p_lease interval, p_host text, p_release text, p_version text, p_slots integer,
  p_threads integer, p_apart boolean, p_up interval
)
returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  insert into rowcall.worker (worker_id, name, host, release, version, slots, threads, apart, up_since)
  values (
    p_worker_id, p_name, p_host, p_release, p_version, p_slots, p_threads, coalesce(p_apart, false),
    clock_timestamp() - p_up
  );
  insert into rowcall.worker_beat (worker_id, number, renewed_at, lease_until, steady_since)
  values (p_worker_id, 1, clock_timestamp(), clock_timestamp() + p_lease, clock_timestamp())
$$;

-- The last renewal of a worker. Only functions with a search_path of their own call it.
create function rowcall.last_beat(p_worker_id uuid)
returns setof rowcall.worker_beat
language sql stable rows 1
as $$
  select b.* from rowcall.worker_beat b where b.worker_id = p_worker_id order by b.number desc limit 1
$$;

-- Whether a worker that renewed last then goes on renewing: it does so every second. Only functions with a
-- search_path of their own call it.
create function rowcall.is_steady(p_renewed_at timestamptz)
returns boolean
language sql
as $$
  select p_renewed_at > clock_timestamp() - interval '3 seconds'
$$;

-- Says what a worker serves: methods, and queues by name (null: every queue). Once more
-- says it anew. Of a dead worker nothing is kept.
create function rowcall.serve_methods(p_worker_id uuid, p_method_id integer[], p_queues text[])
returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  insert into rowcall.serving as s (worker_id, worker, method_id, queues)
  select w.worker_id, w.name, p_method_id, p_queues
  from rowcall.worker w
  where w.worker_id = p_worker_id and w.dead_at is null
  on conflict (worker_id) do update set method_id = excluded.method_id, queues = excluded.queues
$$;

-- Keeps of a worker that has died what it served last, and not which jobs it ran: their tenants may be erased.
create function rowcall.keep_served()
returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  -- One at a time, for two may have served the same, and each row of theirs is written.
  perform pg_advisory_xact_lock(hashtextextended('rowcall.served', 0));
  with gone as (
    delete from rowcall.serving s where s.worker_id = new.worker_id returning s.method_id, s.queues
  )
  insert into rowcall.served as v (method_id, queue, worker, until)
  select distinct m.method_id, q.queue, new.name, new.dead_at
  from gone g
  cross join lateral unnest(g.method_id) as m (method_id)
  cross join lateral unnest(coalesce(g.queues, array[''])) as q (queue)
  on conflict (method_id, queue) do update
  set worker = excluded.worker, until = excluded.until;
  update rowcall.worker_beat b set busy_tenant = null, busy_job_id = null where b.worker_id = new.worker_id;
  return null;
end
$$;

-- Whoever it is that finds it dead. Renewals write other columns, and do not come here.
create trigger keep_served after update of dead_at on rowcall.worker
for each row when (old.dead_at is null and new.dead_at is not null) execute function rowcall.keep_served();

-- Who served some methods last in a queue (null: in whichever), of those that serve nothing any
-- more, and until when. Only functions with a search_path of their own call it.
create function rowcall.last_server(p_method_id integer[], p_queue text)
returns table (worker text, until timestamptz)
language sql stable
as $$
  select l.worker, l.until
  from (
    select v.worker, v.until
    from rowcall.served v
    where v.method_id = any (p_method_id) and (p_queue is null or v.queue in ('', p_queue))
    union all
    -- Dead, and not found to be: where all have died there is nobody to bury them.
    select s.worker, b.renewed_at
    from rowcall.serving s
    cross join lateral rowcall.last_beat(s.worker_id) b
    where b.lease_until <= clock_timestamp()
      and s.method_id && p_method_id
      and (p_queue is null or s.queues is null or p_queue = any (s.queues))
  ) l
  order by l.until desc
  limit 1
$$;

-- What nobody serves of pairs of a method and a queue's name, with who last did and until when (null:
-- nobody has yet). method_served: a worker serves the method, but not in that queue. Only
-- functions with a search_path of their own call it.
create function rowcall.unserved(p_method_id integer[], p_queue text[])
returns table (method_id integer, queue text, method_served boolean, worker text, until timestamptz)
language sql stable
as $$
  with living as materialized (
    select s.method_id, s.queues
    from rowcall.serving s
    cross join lateral rowcall.last_beat(s.worker_id) b
    where b.lease_until > clock_timestamp()
  )
  select p.method_id, p.queue, e.served, l.worker, l.until
  from unnest(p_method_id, p_queue) as p (method_id, queue)
  cross join lateral (
    select exists (select from living s where p.method_id = any (s.method_id)) as served
  ) e
  left join lateral rowcall.last_server(array[p.method_id], case when e.served then p.queue end) l on true
  where not exists (
    select
    from living s
    where p.method_id = any (s.method_id) and (s.queues is null or p.queue = any (s.queues))
  )
$$;

-- The advisory lock that stands for a worker's session. Only functions with a
-- search_path of their own call it.
create function rowcall.worker_lock(p_worker_id uuid)
returns bigint
language sql immutable parallel safe
as $$
  select hashtextextended(p_worker_id::text, 8247343964)
$$;

-- Has the transaction not wait for a synchronous standby. For what keeps a lease: it
-- loses nothing that only this server has it, and while the standby is away all
-- leases would run out.
create function rowcall.without_standby()
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('synchronous_commit') in ('on', 'remote_apply', 'remote_write') then
    perform set_config('synchronous_commit', 'local', true);
  end if;
end
$$;

-- Has this session stand for a worker: when it ends, the worker is suspected at
-- once, not only when its lease is over. Not through a transaction pooler. False:
-- another session still stands for it.
create function rowcall.guard_worker(p_worker_id uuid)
returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_locked boolean := pg_try_advisory_lock(rowcall.worker_lock(p_worker_id));
begin
  if v_locked then
    perform rowcall.without_standby();
    update rowcall.worker w set guarded = true where w.worker_id = p_worker_id and not w.guarded;
  end if;
  return v_locked;
end
$$;

-- Renews the one lease of all of a worker's jobs, and tells it what it must know:
-- which of its jobs were asked to be cancelled from p_since on (null: at any time), which
-- queues are paused. alive false: the worker was declared dead; it must stop what it runs and
-- start again under a new identity. moment, number, oldest: see rowcall.queue.model.Moment. The
-- number is this transaction's own: what had one before has a lower one. p_slots_taken and what follows is
-- for people: see worker_beat.
create function rowcall.renew_worker(
  p_worker_id uuid, p_lease interval, p_loop_lag interval, p_since timestamptz, p_slots_taken integer,
  p_threads_taken integer, p_busy_tenant text[], p_busy_job_id uuid[], p_busy_queue_id integer[], p_busy_jobs integer[],
  p_busy_slots integer[]
)
returns table (
  alive boolean, cancelled_tenant text[], cancelled_job_id uuid[], cancelled_lease bigint[], paused_queue_id integer[],
  moment timestamptz, number bigint, oldest bigint
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_moment timestamptz := clock_timestamp();
  v_last rowcall.worker_beat;
begin
  perform rowcall.without_standby();
  -- Locked, not changed: the dead stay dead, and whoever would bury it now passes it by.
  perform from rowcall.worker w where w.worker_id = p_worker_id and w.dead_at is null for no key update;
  if not found then
    return query select
      false, null::text[], null::uuid[], null::bigint[], null::integer[], null::timestamptz, null::bigint, null::bigint;
    return;
  end if;
  select * into v_last from rowcall.last_beat(p_worker_id);
  insert into rowcall.worker_beat (
    worker_id, number, renewed_at, lease_until, steady_since, loop_lag, slots_taken, threads_taken, busy_tenant, busy_job_id,
    busy_queue_id, busy_jobs, busy_slots
  )
  values (
    p_worker_id, v_last.number + 1, clock_timestamp(), clock_timestamp() + p_lease,
    case
      when not rowcall.is_steady(v_last.renewed_at) then clock_timestamp()
      else v_last.steady_since
    end,
    p_loop_lag, p_slots_taken, p_threads_taken, p_busy_tenant, p_busy_job_id, p_busy_queue_id, p_busy_jobs,
    p_busy_slots
  );
  delete from rowcall.worker_beat b where b.worker_id = p_worker_id and b.number = v_last.number;
  return query
  select
    true, c.tenants, c.job_ids, c.leases, array(select q.queue_id from rowcall.queue q where q.paused_at is not null),
    v_moment, pg_current_xact_id()::text::bigint, pg_snapshot_xmin(pg_current_snapshot())::text::bigint
  from (
    select array_agg(j.tenant) as tenants, array_agg(j.job_id) as job_ids, array_agg(j.lease) as leases
    from rowcall.job j
    where j.worker_id = p_worker_id
      and j.cancel_requested_at >= coalesce(p_since, '-infinity')
      and rowcall.is_running(j.state)
  ) c;
end
$$;

-- A worker that has drained, or takes another identity, takes its leave; what it still
-- held is rescued. p_unharmed: that did the worker no harm, and perhaps was never begun.
create function rowcall.retire_worker(p_worker_id uuid, p_unharmed boolean)
returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  update rowcall.worker w
  set dead_at = clock_timestamp(), died_in = pg_current_xact_id(), unharmed = p_unharmed
  where w.worker_id = p_worker_id and w.dead_at is null
$$;

-- What burying asks of the server beyond plain SQL. It only sharpens: where a server does
-- not give it (a managed one may not), the answer is null, and what is left decides.

-- The timeline; a promoted standby has another. The name of a file of WAL begins with it.
create function rowcall.server_timeline()
returns text
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  return left(pg_walfile_name(pg_current_wal_lsn()), 8);
exception
  when insufficient_privilege or undefined_function or feature_not_supported or object_not_in_prerequisite_state then
    return null;
end
$$;

create function rowcall.server_start()
returns timestamptz
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  return pg_postmaster_start_time();
exception
  when insufficient_privilege or undefined_function or feature_not_supported then
    return null;
end
$$;

-- The advisory locks of one key that sessions hold here: those of workers are among them.
create function rowcall.session_locks()
returns bigint[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  return array(
    select l.classid::bigint << 32 | l.objid::bigint
    from pg_locks l
    where l.locktype = 'advisory'
      and l.granted
      and l.objsubid = 1
      and l.database = (select b.oid from pg_database b where b.datname = current_database())
  );
exception
  when insufficient_privilege or undefined_function or feature_not_supported then
    return null;
end
$$;

-- Finds what the server refuses of this, once, when a service joins: "timeline", "start", "locks". It is kept,
-- so that burying asks for nothing that is known to be refused; what is refused from then on only is
-- found by the functions above all the same.
create function rowcall.find_lacks()
returns text[]
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_lacks text[] := array_remove(
    array[
      case when rowcall.server_timeline() is null then 'timeline' end,
      case when rowcall.server_start() is null then 'start' end,
      case when rowcall.session_locks() is null then 'locks' end
    ],
    null
  );
begin
  -- Asked first, for a session that cannot write may ask too.
  if exists (select from rowcall.shard_info i where i.lacks <> v_lacks) then
    update rowcall.shard_info set lacks = v_lacks;
  end if;
  return v_lacks;
end
$$;

-- Whether a worker is to be buried: see there. It looks at the last renewal as the statement
-- that asks sees it. Only functions with a search_path of their own call it.
create function rowcall.lapsed(p_worker_id uuid, p_guarded boolean, p_steady boolean, p_locks bigint[])
returns boolean
language sql stable
as $$
  select
    b.lease_until < clock_timestamp() - case when p_steady then interval '0' else interval '1 minute' end
    or p_steady
    and p_guarded
    and b.renewed_at < clock_timestamp() - interval '2 seconds'
    -- Where no locks are shown, the time of the lease alone decides.
    and rowcall.worker_lock(p_worker_id) <> all (p_locks)
  from rowcall.last_beat(p_worker_id) b
$$;

-- Marks workers dead, first of all, so that they can neither renew nor claim while
-- their jobs are taken back: those whose lease is over; and, sooner, those whose
-- session is gone and who have missed two beats of a second. A session that was cut
-- (or a server that was restarted) frees the locks of the living: they have two beats, and
-- after the server's start, or a standby's promotion, p_grace, to come back. Nor does p_by,
-- the worker that asks (null: nobody in particular), bury others before its own renewals
-- have come steadily for so long: what cut it off may have cut them off too. But a
-- worker whose lease has been over for a minute is dead in any case. Forgets those that
-- are dead for a day and hold nothing any more.
create function rowcall.bury_workers(p_grace interval, p_by uuid)
returns table (worker_id uuid, name text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
#variable_conflict use_column
declare
  v_lacks text[] := coalesce((select i.lacks from rowcall.shard_info i), '{}');
  -- A standby has run for long when it is promoted.
  v_timeline text := case when 'timeline' <> all (v_lacks) then rowcall.server_timeline() end;
  v_start timestamptz := case when 'start' <> all (v_lacks) then rowcall.server_start() end;
  v_locks bigint[] := case when 'locks' <> all (v_lacks) then rowcall.session_locks() end;
  v_steady boolean := p_by is null or exists (
    select
    from rowcall.last_beat(p_by) b
    where b.steady_since <= clock_timestamp() - p_grace
      -- It may ask before it has renewed again.
      and rowcall.is_steady(b.renewed_at)
  );
  v_forgotten uuid;
  v_lapsed uuid[];
begin
  update rowcall.shard_info i
  set timeline = v_timeline, timeline_since = case when i.timeline is not null then clock_timestamp() end
  where v_timeline is not null and i.timeline is distinct from v_timeline;
  if greatest(v_start, (select i.timeline_since from rowcall.shard_info i))
    > clock_timestamp() - p_grace
  then
    return;
  end if;
  for v_forgotten in
    delete from rowcall.worker w
    where w.dead_at < clock_timestamp() - interval '1 day'
      and not exists (select from rowcall.job j where j.worker_id = w.worker_id and j.state = 3)
    returning w.worker_id
  loop
    delete from rowcall.worker_beat b where b.worker_id = v_forgotten;
  end loop;
  v_lapsed := array(
    select w.worker_id
    from rowcall.worker w
    where w.dead_at is null and rowcall.lapsed(w.worker_id, w.guarded, v_steady, v_locks)
    -- A renewal that is under way is not waited for.
    for update skip locked
  );
  return query
  update rowcall.worker w
  set dead_at = clock_timestamp(), died_in = pg_current_xact_id()
  where w.worker_id = any (v_lapsed)
    -- Asked again, now that no renewal can come in between: one may have come first.
    and rowcall.lapsed(w.worker_id, w.guarded, v_steady, v_locks)
  returning w.worker_id, w.name;
end
$$;

-- Whether this worker is the one that has the role now, for p_term from now on. Its
-- holder asks again before that; a holder that is dead has it no longer.
create function rowcall.elect(p_role text, p_worker_id uuid, p_term interval)
returns boolean
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with held as (
    insert into rowcall.elected as e (role, worker_id, until)
    select p_role, w.worker_id, clock_timestamp() + p_term
    from rowcall.worker w
    where w.worker_id = p_worker_id and w.dead_at is null
    on conflict (role) do update
    set worker_id = excluded.worker_id, until = excluded.until
    where e.worker_id = excluded.worker_id
      or e.until < clock_timestamp()
      or not exists (select from rowcall.worker h where h.worker_id = e.worker_id and h.dead_at is null)
    returning 1
  )
  select exists (select from held)
$$;
