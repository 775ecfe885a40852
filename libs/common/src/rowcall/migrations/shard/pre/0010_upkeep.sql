-- Keeping house: due jobs are made ready, jobs of dead workers taken back, attempts and
-- jobs ended whose time is over, waiting ones moved up, those of the paused set aside.
-- All in batches that pass each other by.
set local role rowcall_owner;

-- Makes due jobs ready, next in their lanes: those that were due from p_since on (null: at any
-- time), so that dead entries of earlier ones need not be walked over. Answers with the queues
-- that got some.
create function rowcall.promote_jobs(p_limit integer, p_since timestamptz)
returns table (queue_id integer, promoted bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with due as materialized (
    select j.tenant, j.job_id, j.queue_id, j.lane
    from rowcall.job j
    where j.state = 1 and j.run_at <= (select clock_timestamp()) and j.run_at >= coalesce(p_since, '-infinity')
    order by j.run_at
    limit p_limit
    for update skip locked
  ),
  placed as materialized (
    select d.*, row_number() over () as place from due d
  ),
  turn as materialized (
    select rowcall.again_keys(
      array_agg(p.tenant order by p.place), array_agg(p.queue_id order by p.place),
      array_agg(p.lane order by p.place)
    ) as order_keys
    from placed p
    having count(*) > 0
  ),
  keyed as materialized (
    select p.tenant, p.job_id, t.order_keys[p.place] as order_key from placed p cross join turn t
  ),
  ready as (
    update rowcall.job j
    set state = 2, ready_at = clock_timestamp(), order_key = k.order_key
    from keyed k
    where j.tenant = any (array[k.tenant]) and j.job_id = k.job_id
    returning j.queue_id
  )
  select r.queue_id, count(*) from ready r group by r.queue_id;
end
$$;

-- How often in a row a job was lost with its worker before now: since an attempt ended
-- otherwise, whatever it came to. That it was handed back meanwhile says nothing. Of the
-- attempts that the row keeps anyhow, so that no other job pays for it.
create function rowcall.lost_in_row(p_attempts jsonb)
returns bigint
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
  select count(*) filter (where a.outcome = 5)
  from (
    select
      (e.attempt ->> 'outcome')::integer as outcome,
      bool_and((e.attempt ->> 'outcome')::integer in (5, 6)) over (order by e.place desc) as unbroken
    from jsonb_array_elements(p_attempts) with ordinality as e (attempt, place)
  ) a
  where a.unbroken
$$;

-- What a worker still held when it was last heard of has an attempt that ends from then on: what is
-- overdue it has named, within seconds (expire_attempts). Only functions with a search_path of
-- their own call it.
create function rowcall.held_from(p_worker_id uuid)
returns timestamptz
language sql stable
as $$
  select b.renewed_at - interval '1 minute' from rowcall.last_beat(p_worker_id) b
$$;

-- Clears the dead workers that a rescue which began at p_began looked at in vain, or puts the next
-- look at them off. Only functions with a search_path of their own call it.
create function rowcall.clear_workers(p_began timestamptz)
returns void
language sql volatile
as $$
  with looked_at as materialized (
    select
      w.worker_id,
      rowcall.held_from(w.worker_id) as held_from,
      w.dead_at < p_began - interval '1 minute'
        and (w.died_in is null or w.died_in < pg_snapshot_xmin(pg_current_snapshot())) as settled,
      clock_timestamp() - p_began as took
    from rowcall.worker w
    where w.dead_at is not null
      and w.cleared_at is null
      and (w.look_again_at is null or w.look_again_at <= p_began)
    for update skip locked
  )
  update rowcall.worker w
  set
    look_again_at = clock_timestamp() + 10 * l.took,
    cleared_at = case
      -- Those that a zombie's transaction holds were passed by.
      when l.settled and not exists (
        select from rowcall.job j where j.worker_id = w.worker_id and j.state = 3 and j.attempt_deadline >= l.held_from
      ) then clock_timestamp()
    end
  from looked_at l
  where w.worker_id = l.worker_id and (l.settled or l.took > interval '100 milliseconds')
$$;

-- Takes back jobs of dead workers, p_limit at most, those locked by a zombie's
-- open transaction left for the next round. The lease number rises, so that the
-- zombie's settle comes too late. A death condemns nobody, and a first one is no
-- evidence: what was lost runs again as any job. What was lost twice in a row is a
-- suspect; what a group of suspects lost runs alone; and only what was lost p_lost_limit
-- times while it ran alone fails. What a worker left behind that retired unharmed was
-- never begun there, and is as suspect as before.
-- It looks at what a worker may still have held when it was last heard of (held_from); p_front: at
-- all that it ever claimed, while a snapshot is held, and at those that are cleared too.
-- A worker whose jobs are all taken back is cleared, and looked at no more. A claim that began
-- before its death may commit behind it; so it is cleared when every transaction of then has
-- ended, a minute later at the earliest. Until then a look that took long and found nothing has
-- a pause of ten times as long behind it.
create function rowcall.rescue_jobs(
  p_limit integer, p_front boolean, p_lost_limit integer, p_lost_error bytea, p_cancelled_error bytea
)
returns table (tenant text, job_id uuid, queue_id integer, state smallint, waiter_id uuid, worker text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_began timestamptz := clock_timestamp();
begin
  return query
  with orphan as materialized (
    select
      j.tenant, j.job_id, j.lease, w.name as worker, w.version, w.unharmed,
      case
        when j.cancel_requested_at is not null then 13
        when j.held = 6 and not w.unharmed and j.lost_alone + 1 >= p_lost_limit then 12
        else 2
      end::smallint as new_state
    from rowcall.worker w
    cross join lateral (
      select case when p_front then '-infinity' else rowcall.held_from(w.worker_id) end as held_from offset 0
    ) f
    -- Limited, so that it stays a lookup for each of the dead: the other way round it would be a walk
    -- over all that runs.
    cross join lateral (
      select j.*
      from rowcall.job j
      where j.worker_id = w.worker_id and j.state = 3 and j.attempt_deadline >= f.held_from
      limit p_limit
      for update skip locked
    ) j
    where w.dead_at is not null
      and (p_front or w.cleared_at is null and (w.look_again_at is null or w.look_again_at <= v_began))
    limit p_limit
  ),
  ready as (
    update rowcall.job j
    set
      state = 2,
      order_key = rowcall.next_key(j.queue_id, j.lane),
      ready_at = clock_timestamp(),
      lease = j.lease + 1,
      attempt = j.attempt - 1,
      lost = j.lost + case when o.unharmed then 0 else 1 end,
      lost_alone = j.lost_alone + case when j.held = 6 and not o.unharmed then 1 else 0 end,
      held = case
        when o.unharmed then j.held
        when j.held & 2 = 2 then 6
        when rowcall.lost_in_row(j.attempts) > 0 then 2
        else 0
      end,
      worker_id = null,
      attempt_deadline = null,
      attempts = rowcall.with_attempt(
        j, o.worker, o.version, case when o.unharmed then 6 else 5 end, null, null, null, null, null
      )
    from orphan o
    where j.tenant = any (array[o.tenant]) and j.job_id = o.job_id and j.lease = o.lease and o.new_state = 2
    returning j.tenant, j.job_id, j.queue_id, 2::smallint as state, j.waiter_id, o.worker
  ),
  gone as (
    delete from rowcall.job j
    using orphan o
    where j.tenant = any (array[o.tenant]) and j.job_id = o.job_id and j.lease = o.lease and o.new_state <> 2
    returning j as live, j.tenant, j.job_id, j.queue_id, j.waiter_id, o.new_state, o.worker, o.version
  ),
  moved as (
    insert into rowcall.job_history
    select h.*
    from gone g
    cross join rowcall.finishing_time() t
    cross join lateral rowcall.ended(
      g.live, g.new_state, g.worker, g.version, null,
      case when g.new_state = 13 then p_cancelled_error else p_lost_error end,
      case when g.new_state = 13 then 1 else 10 end,
      case when g.new_state = 13 then 'The job was cancelled.' else 'Workers died each time they ran the job.' end,
      null, null, t.now, t.day
    ) h
  )
  select r.* from ready r
  union all
  select g.tenant, g.job_id, g.queue_id, g.new_state, g.waiter_id, g.worker from gone g;
  if not found then
    perform rowcall.clear_workers(v_began);
  end if;
end
$$;

-- Ends attempts that are p_grace past their deadline, though their worker lives: it has
-- not ended them itself, so something in it hangs. They are tried again like those
-- that timed out, or fail; the lease number rises, so that what comes later is too late.
-- Of those that are named (p_job_id not null), as a worker names its own; or of all that run,
-- p_limit at most, that are due from p_since on (null: at any time).
create function rowcall.expire_attempts(
  p_tenant text[], p_job_id uuid[], p_lease bigint[], p_limit integer, p_since timestamptz, p_grace interval,
  p_timeout_error bytea, p_deadline_error bytea, p_cancelled_error bytea
)
returns table (tenant text, job_id uuid, queue_id integer, state smallint, waiter_id uuid, worker text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with named as materialized (
    select i.* from unnest(p_tenant, p_job_id, p_lease) as i (tenant, job_id, lease)
    union all
    (
      select j.tenant, j.job_id, j.lease
      -- Few run, and the index of those that do is by worker.
      from rowcall.worker w
      cross join lateral (
        select j.tenant, j.job_id, j.lease
        from rowcall.job j
        where j.worker_id = w.worker_id
          and j.state = 3
          and j.attempt_deadline < (select clock_timestamp()) - p_grace
          and j.attempt_deadline >= coalesce(p_since - p_grace, '-infinity')
        limit p_limit
      ) j
      where p_job_id is null and w.dead_at is null
      limit p_limit
    )
  ),
  late as materialized (
    select
      j.tenant, j.job_id, j.lease, w.name as worker, w.version,
      case
        when j.cancel_requested_at is not null then 13
        when j.deadline <= clock_timestamp() or j.attempt >= p.max_attempts then 12
        else 1
      end::smallint as new_state,
      coalesce(j.deadline <= clock_timestamp(), false) as too_late,
      rowcall.backoff(p, j.attempt) as delay
    from named n
    join rowcall.job j on j.tenant = any (array[n.tenant]) and j.job_id = n.job_id and j.lease = n.lease and rowcall.is_running(j.state)
    join rowcall.worker w on w.worker_id = j.worker_id
    join rowcall.policy p on p.policy_id = j.policy_id
    where w.dead_at is null and j.attempt_deadline < clock_timestamp() - p_grace
    for update of j skip locked
  ),
  again as (
    update rowcall.job j
    set
      state = 1,
      run_at = clock_timestamp() + l.delay,
      ready_at = null,
      held = 0,
      lease = j.lease + 1,
      worker_id = null,
      attempt_deadline = null,
      attempts = rowcall.with_attempt(
        j, l.worker, l.version, 2, 4, 'The attempt ran longer than the method''s timeout.', null, null, p_timeout_error
      )
    from late l
    where j.tenant = any (array[l.tenant]) and j.job_id = l.job_id and j.lease = l.lease and l.new_state = 1
    returning j.tenant, j.job_id, j.queue_id, 1::smallint as state, j.waiter_id, l.worker
  ),
  gone as (
    delete from rowcall.job j
    using late l
    where j.tenant = any (array[l.tenant]) and j.job_id = l.job_id and j.lease = l.lease and l.new_state <> 1
    returning j as live, j.tenant, j.job_id, j.queue_id, j.waiter_id, l.new_state, l.worker, l.version, l.too_late
  ),
  moved as (
    insert into rowcall.job_history
    select h.*
    from gone g
    cross join rowcall.finishing_time() t
    cross join lateral rowcall.ended(
      g.live, g.new_state, g.worker, g.version, null,
      case when g.new_state = 13 then p_cancelled_error when g.too_late then p_deadline_error else p_timeout_error end,
      case when g.new_state = 13 then 1 else 4 end,
      case
        when g.new_state = 13 then 'The job was cancelled.'
        when g.too_late then 'The job''s deadline is over.'
        else 'The attempt ran longer than the method''s timeout.'
      end,
      null, null, t.now, t.day
    ) h
  )
  select a.* from again a
  union all
  select g.tenant, g.job_id, g.queue_id, g.new_state, g.waiter_id, g.worker from gone g;
end
$$;

-- Fails jobs that wait though their deadline is over, since p_since or later (null: at any time).
create function rowcall.expire_jobs(p_limit integer, p_since timestamptz, p_deadline_error bytea)
returns table (tenant text, job_id uuid, waiter_id uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with late as materialized (
    select j.tenant, j.job_id
    from rowcall.job j
    where j.deadline <= (select clock_timestamp()) and j.state in (1, 2)
      and j.deadline >= coalesce(p_since, '-infinity')
    order by j.deadline
    limit p_limit
    for update skip locked
  ),
  gone as (
    delete from rowcall.job j
    using late l
    where j.tenant = any (array[l.tenant]) and j.job_id = l.job_id
    returning j as live, j.tenant, j.job_id, j.waiter_id
  ),
  moved as (
    insert into rowcall.job_history
    select h.*
    from gone g
    cross join rowcall.finishing_time() t
    cross join lateral rowcall.ended(
      g.live, 12::smallint, null, null, null, p_deadline_error, 4, 'The job''s deadline is over.', null, null, t.now, t.day
    ) h
  )
  select g.tenant, g.job_id, g.waiter_id from gone g;
end
$$;

-- Moves jobs up a lane that have waited for their queue's age_after in each lane so far:
-- of every lane those whose turn is next, p_limit at most. So a lane that is passed over
-- goes on at that pace, and one with a large backlog does not flood the next. As a claim does,
-- it moves the lane's frontier up to what it took. p_front: whether also those are looked at
-- that the frontier has passed: nobody who claims serves them. Dead entries are behind it.
create function rowcall.age_jobs(p_limit integer, p_front boolean)
returns table (queue_id integer, aged bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with lane as materialized (
    select
      l.queue_id, l.lane, l.frontier, q.age_after, coalesce(pg_sequence_last_value(l.frontier), 0) as reached
    from rowcall.queue_lane l
    join rowcall.queue q on q.queue_id = l.queue_id
    where l.lane > 1
  ),
  old as materialized (
    select o.ctid
    from lane l
    cross join lateral (
      select h.ctid
      from (
        select j.ctid, j.ready_at, j.priority
        from rowcall.job j
        where j.state = 2 and j.held = 0 and j.queue_id = l.queue_id and j.lane = l.lane
          and j.order_key >= case when p_front then '-9223372036854775808'::bigint else l.reached end
        order by j.queue_id, j.lane, j.order_key, j.job_id
        limit p_limit
      ) h
      where h.ready_at < clock_timestamp() - l.age_after * (h.priority - l.lane + 1)
    ) o
  ),
  locked as materialized (
    select j.ctid, j.queue_id, j.lane, j.order_key
    from rowcall.job j
    -- held < 1 (none): it offers no index to be walked instead of the look-up by position.
    where j.ctid = any (array(select o.ctid from old o)) and j.state = 2 and j.held < 1
    for update skip locked
  ),
  advanced as materialized (
    select setval(l.frontier, h.highest)
    from (select k.queue_id, k.lane, max(k.order_key) as highest from locked k group by k.queue_id, k.lane) h
    join lane l on l.queue_id = h.queue_id and l.lane = h.lane
    where h.highest > l.reached
  ),
  moved as (
    update rowcall.job j
    set lane = j.lane - 1, order_key = rowcall.next_key(j.queue_id, (j.lane - 1)::smallint)
    from locked l
    where j.ctid = l.ctid
    returning j.queue_id
  )
  -- The count does nothing but have the frontiers advanced.
  select m.queue_id, count(*) from moved m where (select count(*) from advanced) >= 0 group by m.queue_id;
end
$$;

-- Sets aside ready jobs whose tenant or method is paused, so that claims need not
-- pass over them each time (that they do is what the pause rests on). How many. What is held
-- already is held for this too: nobody else sets it free meanwhile.
create function rowcall.hold_paused(p_limit integer)
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off
as $$
declare
  -- Locked: who resumes them now waits until what is set aside here can be seen.
  v_tenants text[] := array(
    select r.tenant from rowcall.tenant_route r where r.paused_at is not null order by r.tenant for share
  );
  v_methods integer[] := array(
    select m.method_id from rowcall.method m where m.paused_at is not null order by m.method_id for share
  );
  v_held bigint;
begin
  if cardinality(v_tenants) = 0 and cardinality(v_methods) = 0 then
    return 0;
  end if;
  with free as materialized (
    select j.tenant, j.job_id
    from rowcall.job j
    where j.state = 2 and j.held = 0 and (j.tenant = any (v_tenants) or j.method_id = any (v_methods))
    limit p_limit
    for update skip locked
  ),
  -- A look for each reason: each has its own index.
  suspect as materialized (
    select j.tenant, j.job_id
    from rowcall.job j
    where j.state = 2 and j.held & 2 = 2 and j.held & 1 = 0
      and (j.tenant = any (v_tenants) or j.method_id = any (v_methods))
    limit p_limit - (select count(*) from free)
    for update skip locked
  ),
  limited as materialized (
    select j.tenant, j.job_id
    from rowcall.job j
    where j.state = 2 and j.held & 8 = 8 and j.held & 3 = 0
      and (j.tenant = any (v_tenants) or j.method_id = any (v_methods))
    limit p_limit - (select count(*) from free) - (select count(*) from suspect)
    for update skip locked
  ),
  found as materialized (
    select * from free union all select * from suspect union all select * from limited
  ),
  held as (
    update rowcall.job j
    set held = j.held | 1
    from found f
    where j.tenant = any (array[f.tenant]) and j.job_id = f.job_id
    returning 1
  )
  select count(*) into v_held from held;
  return v_held;
end
$$;

-- Takes the pause from jobs that were set aside, where neither tenant nor method is paused
-- any more: what nothing else holds is next, the rest is a suspect, or limited, as before.
-- Answers with the queues of all of them. It looks for them where somebody was
-- resumed on whose account there may be some, until there are none; p_front: in any case.
create function rowcall.free_resumed(p_limit integer, p_front boolean)
returns table (queue_id integer, freed bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  -- Locked: nobody pauses them again meanwhile. Looked for before those that are paused: who is resumed between the two is free, and
  -- still known as one on whose account there may be some.
  v_resumed_tenants text[] := array(
    select r.tenant
    from rowcall.tenant_route r
    where r.holding and r.paused_at is null
    order by r.tenant
    for update skip locked
  );
  v_resumed_methods integer[] := array(
    select m.method_id
    from rowcall.method m
    where m.holding and m.paused_at is null
    order by m.method_id
    for update skip locked
  );
  v_tenants text[] := array(select r.tenant from rowcall.tenant_route r where r.paused_at is not null);
  v_methods integer[] := array(select m.method_id from rowcall.method m where m.paused_at is not null);
begin
  if not p_front and cardinality(v_resumed_tenants) = 0 and cardinality(v_resumed_methods) = 0 then
    return;
  end if;
  return query
  with found as materialized (
    select j.tenant, j.job_id, j.queue_id, j.lane, j.order_key, j.held
    from rowcall.job j
    where j.state = 2 and j.held & 1 = 1 and j.tenant <> all (v_tenants) and j.method_id <> all (v_methods)
    -- A tenant's jobs in their order, also where it takes many batches.
    order by j.tenant, j.queue_id, j.order_key
    limit p_limit
    for update skip locked
  ),
  placed as materialized (
    select f.*, row_number() over (order by f.order_key, f.job_id) as place from found f where f.held = 1
  ),
  turn as materialized (
    select rowcall.again_keys(
      array_agg(p.tenant order by p.place), array_agg(p.queue_id order by p.place),
      array_agg(p.lane order by p.place)
    ) as order_keys
    from placed p
    having count(*) > 0
  ),
  keyed as materialized (
    select p.tenant, p.job_id, t.order_keys[p.place] as order_key from placed p cross join turn t
    union all
    select f.tenant, f.job_id, f.order_key from found f where f.held <> 1
  ),
  freed as (
    update rowcall.job j
    set held = j.held & ~1, order_key = k.order_key
    from keyed k
    where j.tenant = any (array[k.tenant]) and j.job_id = k.job_id
    returning j.queue_id
  )
  select f.queue_id, count(*) from freed f group by f.queue_id;
  if not found and not exists (
    select
    from rowcall.job j
    where j.state = 2
      and j.held & 1 = 1
      and j.tenant <> all (v_tenants)
      and j.method_id <> all (v_methods)
  ) then
    update rowcall.tenant_route r set holding = false where r.tenant = any (v_resumed_tenants);
    update rowcall.method m set holding = false where m.method_id = any (v_resumed_methods);
  end if;
end
$$;

-- Takes keys away that expired at p_since or later (null: at any time), p_limit at most.
create function rowcall.expire_keys(p_limit integer, p_since timestamptz)
returns bigint
language sql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  with old as materialized (
    select k.tenant, k.method_id, k.request_id
    from rowcall.job_key k
    where k.expires_at <= (select clock_timestamp()) and k.expires_at >= coalesce(p_since, '-infinity')
    order by k.expires_at
    limit p_limit
    for update skip locked
  ),
  gone as (
    delete from rowcall.job_key k
    using old o
    where k.tenant = o.tenant and k.method_id = o.method_id and k.request_id = o.request_id
    returning 1
  )
  select count(*) from gone
$$;
