-- Pausing and resuming, weights, and what operators see of the queues.
set local role rowcall_owner;

-- Pauses or resumes a queue: nothing of it is claimed meanwhile, what runs goes on.
-- False: there is no such queue here. A pause that is there already stays as it is, with
-- its time, its actor and its note; it is written all the same, so that the answer to a
-- repeat is as durable as the first one.
create function rowcall.pause_queue(p_name text, p_paused boolean, p_by text, p_note text)
returns boolean
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with changed as (
    update rowcall.queue q
    set
      paused_at = case when p_paused then coalesce(q.paused_at, clock_timestamp()) end,
      paused_by = case when p_paused then case when q.paused_at is null then p_by else q.paused_by end end,
      pause_note = case when p_paused then case when q.paused_at is null then p_note else q.pause_note end end
    where q.name = p_name
    returning 1
  )
  select exists (select from changed)
$$;

create function rowcall.pause_method(p_name text, p_paused boolean, p_by text, p_note text)
returns boolean
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with changed as (
    update rowcall.method m
    set
      paused_at = case when p_paused then coalesce(m.paused_at, clock_timestamp()) end,
      paused_by = case when p_paused then case when m.paused_at is null then p_by else m.paused_by end end,
      pause_note = case when p_paused then case when m.paused_at is null then p_note else m.pause_note end end,
      holding = p_paused or m.holding
    where m.name = p_name
    returning 1
  )
  select exists (select from changed)
$$;

-- A tenant that moved away is paused where it lives now; one that was erased has nothing to pause.
create function rowcall.pause_tenant(p_tenant text, p_paused boolean, p_by text, p_note text)
returns boolean
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with changed as (
    update rowcall.tenant_route r
    set
      paused_at = case when p_paused then coalesce(r.paused_at, clock_timestamp()) end,
      paused_by = case when p_paused then case when r.paused_at is null then p_by else r.paused_by end end,
      pause_note = case when p_paused then case when r.paused_at is null then p_note else r.pause_note end end,
      holding = p_paused or r.holding
    where r.tenant = p_tenant and r.state in (1, 2)
    returning 1
  )
  select exists (select from changed)
$$;

-- The tenant's share beside others, from the next submit on. False: it is not here.
create function rowcall.weigh_tenant(p_tenant text, p_weight double precision)
returns boolean
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with changed as (
    update rowcall.tenant_route r set weight = p_weight where r.tenant = p_tenant and r.state in (1, 2) returning 1
  )
  select exists (select from changed)
$$;

-- Everything that is paused here, of tenants only the one that is named. kind: "queue",
-- "method" or "tenant".
create function rowcall.pauses(p_tenant text)
returns table (kind text, name text, paused_at timestamptz, paused_by text, pause_note text)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select 'queue', q.name, q.paused_at, q.paused_by, q.pause_note from rowcall.queue q where q.paused_at is not null
  union all
  select 'method', m.name, m.paused_at, m.paused_by, m.pause_note from rowcall.method m where m.paused_at is not null
  union all
  select 'tenant', r.tenant, r.paused_at, r.paused_by, r.pause_note
  from rowcall.tenant_route r
  where r.tenant = p_tenant and r.paused_at is not null and r.state <> 3
$$;

-- The queues as operators see them. Counted to p_cap and no further, so that a million
-- waiting jobs cost no more than p_cap: ready ones of each queue, held and scheduled ones
-- of all queues together, held ones for each reason (one that has several counts for each,
-- and once in held). capped: a count stopped there, and is a lower bound. The oldest
-- ready job is looked for among the p_cap jobs of each lane whose turn is next.
create function rowcall.queue_stats(p_cap integer)
returns table (
  name text, paused_at timestamptz, paused_by text, pause_note text, ready bigint, oldest_ready_at timestamptz,
  held bigint, running bigint, scheduled bigint, capped boolean, held_paused bigint, held_suspect bigint,
  held_limited bigint
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with due as materialized (
    select d.queue_id, count(*) as jobs
    from (select j.queue_id from rowcall.job j where j.state = 1 order by j.run_at limit p_cap) d
    group by d.queue_id
  ),
  run as materialized (
    select j.queue_id, count(*) as jobs
    from rowcall.worker w
    join rowcall.job j on j.worker_id = w.worker_id and j.state = 3
    group by j.queue_id
  ),
  found as materialized (
    (
      select j.queue_id, j.held, 1 as reason from rowcall.job j where j.state = 2 and j.held & 1 = 1 limit p_cap
    )
    union all
    (
      select j.queue_id, j.held, 2 from rowcall.job j where j.state = 2 and j.held & 2 = 2 limit p_cap
    )
    union all
    (
      select j.queue_id, j.held, 8 from rowcall.job j where j.state = 2 and j.held & 8 = 8 limit p_cap
    )
  ),
  aside as materialized (
    select
      f.queue_id,
      -- Each by the first of its reasons.
      count(*) filter (where f.held & (f.reason - 1) = 0) as jobs,
      count(*) filter (where f.reason = 1) as paused,
      count(*) filter (where f.reason = 2) as suspect,
      count(*) filter (where f.reason = 8) as limited
    from found f
    group by f.queue_id
  )
  select
    q.name, q.paused_at, q.paused_by, q.pause_note, least(r.jobs, p_cap)::bigint, r.oldest,
    coalesce(a.jobs, 0), coalesce(u.jobs, 0), coalesce(d.jobs, 0),
    r.jobs >= p_cap
      or (select coalesce(sum(d.jobs), 0) from due d) >= p_cap
      or exists (select from found f group by f.reason having count(*) >= p_cap),
    coalesce(a.paused, 0), coalesce(a.suspect, 0), coalesce(a.limited, 0)
  from rowcall.queue q
  cross join lateral (
    select count(*) as jobs, min(n.ready_at) as oldest
    from (values (1), (2), (3), (4)) as l (lane)
    cross join lateral (
      select j.ready_at
      from rowcall.job j
      where j.state = 2 and j.held = 0 and j.queue_id = q.queue_id and j.lane = l.lane
      order by j.queue_id, j.lane, j.order_key, j.job_id
      limit p_cap
    ) n
  ) r
  left join due d on d.queue_id = q.queue_id
  left join run u on u.queue_id = q.queue_id
  left join aside a on a.queue_id = q.queue_id
  order by q.name;
end
$$;

-- Who serves each queue: the living workers that serve it and at least one of the methods that are
-- submitted to it, by name; where there are none, who last did and until when (null: nobody
-- has yet); and the methods that wait in it though nobody serves them here, among the p_cap jobs
-- of each lane whose turn is next. Only where nobody serves a method of the queue are jobs looked at.
create function rowcall.queue_serving(p_cap integer)
returns table (name text, workers text[], last_worker text, last_until timestamptz, unserved_methods text[])
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with member as materialized (
    -- Of a queue that no method is submitted to as far as is known here, any method will do.
    select
      q.queue_id, q.name,
      coalesce(
        (select array_agg(m.method_id) from rowcall.method m where m.queue_id = q.queue_id),
        (select array_agg(m.method_id) from rowcall.method m)
      ) as method_id
    from rowcall.queue q
  ),
  lacking as materialized (
    select u.*
    from (
      select array_agg(m.method_id) as method_id, array_agg(q.name) as queue
      from rowcall.queue q
      join rowcall.method m on m.queue_id = q.queue_id or m.queue_id is null
    ) p
    cross join lateral rowcall.unserved(p.method_id, p.queue) u
  )
  select
    b.name,
    s.workers,
    l.worker,
    l.until,
    array(
      select m.name
      from (
        select distinct n.method_id
        from (values (1), (2), (3), (4)) as a (lane)
        cross join lateral (
          select j.method_id
          from rowcall.job j
          where j.state = 2 and j.held = 0 and j.queue_id = b.queue_id and j.lane = a.lane
          order by j.queue_id, j.lane, j.order_key, j.job_id
          limit p_cap
        ) n
        where exists (select from lacking k where k.queue = b.name)
      ) n
      join rowcall.method m on m.method_id = n.method_id
      where exists (select from lacking k where k.queue = b.name and k.method_id = n.method_id)
      order by m.name
    )
  from member b
  cross join lateral (
    select array(
      select distinct s.worker
      from rowcall.serving s
      cross join lateral rowcall.last_beat(s.worker_id) r
      where r.lease_until > clock_timestamp()
        and (s.queues is null or b.name = any (s.queues))
        and s.method_id && b.method_id
      order by s.worker
    ) as workers
  ) s
  left join lateral rowcall.last_server(b.method_id, b.name) l on s.workers = '{}'
  order by b.name;
end
$$;

-- Which living workers serve each method, by name.
create function rowcall.method_serving()
returns table (name text, workers text[])
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select m.name, array_agg(distinct s.worker order by s.worker)
  from rowcall.serving s
  cross join lateral rowcall.last_beat(s.worker_id) b
  cross join lateral unnest(s.method_id) as u (method_id)
  join rowcall.method m on m.method_id = u.method_id
  where b.lease_until > clock_timestamp()
  group by m.name
$$;
