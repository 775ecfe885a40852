-- Keeping house: due jobs are made ready, jobs of dead workers taken back, attempts and
-- jobs ended whose time is over, waiting ones moved up, those of the paused set aside.
-- All in batches that pass each other by.
set local role rowcall_owner;

-- Makes due jobs ready, next in their lanes; answers with the queues that got some.
create function rowcall.promote_jobs(p_limit integer)
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
    where j.state = 1 and j.run_at <= (select clock_timestamp())
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

-- Takes back jobs of dead workers, p_limit at most, those locked by a zombie's
-- open transaction left for the next round. The lease number rises, so that the
-- zombie's settle comes too late. A death condemns nobody, and a first one is no
-- evidence: what was lost runs again as any job. What was lost twice in a row is a
-- suspect; what a group of suspects lost runs alone; and only what was lost p_lost_limit
-- times while it ran alone fails. What a worker left behind that retired unharmed was
-- never begun there, and is as suspect as before.
create function rowcall.rescue_jobs(
  p_limit integer, p_lost_limit integer, p_lost_error bytea, p_cancelled_error bytea
)
returns table (tenant text, job_id uuid, queue_id integer, state smallint, waiter_id uuid, worker text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with orphan as materialized (
    select
      j.tenant, j.job_id, j.lease, w.name as worker, w.unharmed,
      case
        when j.cancel_requested_at is not null then 6
        when j.held = 3 and not w.unharmed and j.lost_alone + 1 >= p_lost_limit then 5
        else 2
      end::smallint as new_state
    from rowcall.worker w
    join rowcall.job j on j.worker_id = w.worker_id and j.state = 3
    where w.dead_at is not null
    limit p_limit
    for update of j skip locked
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
      lost_alone = j.lost_alone + case when j.held = 3 and not o.unharmed then 1 else 0 end,
      held = case
        when o.unharmed then j.held
        when j.held >= 2 then 3
        when rowcall.lost_in_row(j.attempts) > 0 then 2
        else 0
      end,
      worker_id = null,
      attempt_deadline = null,
      attempts = rowcall.with_attempt(j, o.worker, case when o.unharmed then 6 else 5 end, null, null, null, null)
    from orphan o
    where j.tenant = any (array[o.tenant]) and j.job_id = o.job_id and j.lease = o.lease and o.new_state = 2
    returning j.tenant, j.job_id, j.queue_id, 2::smallint as state, j.waiter_id, o.worker
  ),
  gone as (
    delete from rowcall.job j
    using orphan o
    where j.tenant = any (array[o.tenant]) and j.job_id = o.job_id and j.lease = o.lease and o.new_state <> 2
    returning j as live, j.tenant, j.job_id, j.queue_id, j.waiter_id, o.new_state, o.worker
  ),
  moved as (
    insert into rowcall.job_history
    select h.*
    from gone g
    cross join rowcall.finishing_time() t
    cross join lateral rowcall.ended(
      g.live, g.new_state, g.worker, null,
      case when g.new_state = 6 then p_cancelled_error else p_lost_error end,
      case when g.new_state = 6 then 1 else 10 end,
      case when g.new_state = 6 then 'The job was cancelled.' else 'Workers died each time they ran the job.' end,
      null, t.now, t.day
    ) h
  )
  select r.* from ready r
  union all
  select g.tenant, g.job_id, g.queue_id, g.new_state, g.waiter_id, g.worker from gone g;
end
$$;

-- Ends attempts that are p_grace past their deadline, though their worker lives: it has
-- not ended them itself, so something in it hangs. They are tried again like those
-- that timed out, or fail; the lease number rises, so that what comes later is too late.
create function rowcall.expire_attempts(
  p_limit integer, p_grace interval, p_timeout_error bytea, p_deadline_error bytea, p_cancelled_error bytea
)
returns table (tenant text, job_id uuid, queue_id integer, state smallint, waiter_id uuid, worker text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with late as materialized (
    select
      j.tenant, j.job_id, j.lease, w.name as worker,
      case
        when j.cancel_requested_at is not null then 6
        when j.deadline <= clock_timestamp() or j.attempt >= p.max_attempts then 5
        else 1
      end::smallint as new_state,
      coalesce(j.deadline <= clock_timestamp(), false) as too_late,
      rowcall.backoff(p, j.attempt) as delay
    -- Few run, and the index of those that do is by worker.
    from rowcall.worker w
    join rowcall.job j on j.worker_id = w.worker_id and j.state = 3
    join rowcall.policy p on p.policy_id = j.policy_id
    where w.dead_at is null and j.attempt_deadline < clock_timestamp() - p_grace
    limit p_limit
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
        j, l.worker, 2, 4, 'The attempt ran longer than the method''s timeout.', null, p_timeout_error
      )
    from late l
    where j.tenant = any (array[l.tenant]) and j.job_id = l.job_id and j.lease = l.lease and l.new_state = 1
    returning j.tenant, j.job_id, j.queue_id, 1::smallint as state, j.waiter_id, l.worker
  ),
  gone as (
    delete from rowcall.job j
    using late l
    where j.tenant = any (array[l.tenant]) and j.job_id = l.job_id and j.lease = l.lease and l.new_state <> 1
    returning j as live, j.tenant, j.job_id, j.queue_id, j.waiter_id, l.new_state, l.worker, l.too_late
  ),
  moved as (
    insert into rowcall.job_history
    select h.*
    from gone g
    cross join rowcall.finishing_time() t
    cross join lateral rowcall.ended(
      g.live, g.new_state, g.worker, null,
      case when g.new_state = 6 then p_cancelled_error when g.too_late then p_deadline_error else p_timeout_error end,
      case when g.new_state = 6 then 1 else 4 end,
      case
        when g.new_state = 6 then 'The job was cancelled.'
        when g.too_late then 'The job''s deadline is over.'
        else 'The attempt ran longer than the method''s timeout.'
      end,
      null, t.now, t.day
    ) h
  )
  select a.* from again a
  union all
  select g.tenant, g.job_id, g.queue_id, g.new_state, g.waiter_id, g.worker from gone g;
end
$$;

-- Fails jobs that wait though their deadline is over.
create function rowcall.expire_jobs(p_limit integer, p_deadline_error bytea)
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
      g.live, 5::smallint, null, null, p_deadline_error, 4, 'The job''s deadline is over.', null, t.now, t.day
    ) h
  )
  select g.tenant, g.job_id, g.waiter_id from gone g;
end
$$;

-- Moves jobs up a lane that have waited for their queue's age_after in each lane so far:
-- of every lane those whose turn is next, p_limit at most. So a lane that is passed over
-- goes on at that pace, and one with a large backlog does not flood the next.
create function rowcall.age_jobs(p_limit integer)
returns table (queue_id integer, aged bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with old as materialized (
    select o.ctid
    from rowcall.queue q
    cross join (values (2), (3), (4)) as l (lane)
    cross join lateral (
      select h.ctid
      from (
        select j.ctid, j.ready_at, j.priority
        from rowcall.job j
        where j.state = 2 and j.held = 0 and j.queue_id = q.queue_id and j.lane = l.lane
        order by j.queue_id, j.lane, j.order_key, j.job_id
        limit p_limit
      ) h
      where h.ready_at < clock_timestamp() - q.age_after * (h.priority - l.lane + 1)
    ) o
  ),
  locked as materialized (
    select j.ctid
    from rowcall.job j
    where j.ctid = any (array(select o.ctid from old o)) and j.state = 2 and j.held = 0
    for update skip locked
  ),
  moved as (
    update rowcall.job j
    set lane = j.lane - 1, order_key = rowcall.next_key(j.queue_id, (j.lane - 1)::smallint)
    from locked l
    where j.ctid = l.ctid
    returning j.queue_id
  )
  select m.queue_id, count(*) from moved m group by m.queue_id;
end
$$;

-- Sets aside ready jobs whose tenant or method is paused, so that claims need not
-- pass over them each time (that they do is what the pause rests on). How many.
create function rowcall.hold_paused(p_limit integer)
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off
as $$
declare
  v_tenants text[] := rowcall.paused_tenants();
  v_methods integer[] := array(select m.method_id from rowcall.method m where m.paused_at is not null);
  v_held bigint;
begin
  if cardinality(v_tenants) = 0 and cardinality(v_methods) = 0 then
    return 0;
  end if;
  with found as materialized (
    select j.tenant, j.job_id
    from rowcall.job j
    where j.state = 2 and j.held = 0 and (j.tenant = any (v_tenants) or j.method_id = any (v_methods))
    limit p_limit
    for update skip locked
  ),
  held as (
    update rowcall.job j
    set held = 1
    from found f
    where j.tenant = any (array[f.tenant]) and j.job_id = f.job_id
    returning 1
  )
  select count(*) into v_held from held;
  return v_held;
end
$$;

-- Makes jobs ready again that were set aside, where neither tenant nor method is
-- paused any more. Answers with the queues that got some.
create function rowcall.free_resumed(p_limit integer)
returns table (queue_id integer, freed bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_tenants text[] := rowcall.paused_tenants();
  v_methods integer[] := array(select m.method_id from rowcall.method m where m.paused_at is not null);
begin
  return query
  with found as materialized (
    select j.tenant, j.job_id, j.queue_id, j.lane, j.order_key
    from rowcall.job j
    where j.state = 2 and j.held = 1 and j.tenant <> all (v_tenants) and j.method_id <> all (v_methods)
    -- A tenant's jobs in their order, also where it takes many batches.
    order by j.held, j.tenant, j.queue_id, j.order_key
    limit p_limit
    for update skip locked
  ),
  placed as materialized (
    select f.*, row_number() over (order by f.order_key, f.job_id) as place from found f
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
  freed as (
    update rowcall.job j
    set held = 0, order_key = k.order_key
    from keyed k
    where j.tenant = any (array[k.tenant]) and j.job_id = k.job_id
    returning j.queue_id
  )
  select f.queue_id, count(*) from freed f group by f.queue_id;
end
$$;

-- Takes expired keys away, p_limit at most.
create function rowcall.expire_keys(p_limit integer)
returns bigint
language sql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  with old as materialized (
    select k.tenant, k.method_id, k.request_id
    from rowcall.job_key k
    where k.expires_at <= (select clock_timestamp())
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
