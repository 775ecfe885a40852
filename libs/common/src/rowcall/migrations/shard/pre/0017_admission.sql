-- How much is let in here: a copy of the catalogue's bounds, what gateways need of them, and what of
-- a backlog is refused. docs/adr/0033.
set local role rowcall_owner;

-- The catalogue's, as a gateway left them here; its table says what is what. For gateways that start while
-- the catalogue is away, and for what is submitted in SQL and by handlers.
create table rowcall.bound (
  tenant text not null,
  queue text not null,
  method text not null,
  rate double precision,
  in_flight integer,
  waiters integer,
  backlog bigint,
  oldest_age interval,
  number bigint not null,
  updated_at timestamptz not null,
  actor text,
  note text,
  primary key (tenant, queue, method)
);

-- The gateways that let in by bounds here, and what each needs of them: a row with the next number each
-- second, and the one before taken away. Read from the highest number down, the first one met is the one that is
-- there, whatever a held snapshot keeps (as worker_beat).
create table rowcall.admitting (
  gateway_id uuid primary key
);
create table rowcall.admitting_beat (
  gateway_id uuid not null,
  number bigint not null,
  beat_at timestamptz not null,
  -- By place: what of; jobs a second that it is asked for, in thousandths; calls in flight, and how many there
  -- would be; calls that wait, and how many there would be.
  target text[] not null,
  rate bigint[] not null,
  in_flight integer[] not null,
  in_flight_wanted integer[] not null,
  waiters integer[] not null,
  waiters_wanted integer[] not null,
  primary key (gateway_id, number)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Keeps bounds, each unless a later one is there: a gateway that the catalogue is away from may know less
-- than another one.
create function rowcall.keep_bounds(p_bounds jsonb)
returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  insert into rowcall.bound as b (
    tenant, queue, method, rate, in_flight, waiters, backlog, oldest_age, number, updated_at, actor, note
  )
  select
    i.tenant, i.queue, i.method, i.rate, i.in_flight, i.waiters, i.backlog, make_interval(secs => i.oldest_age), i.number,
    i.updated_at, i.actor, i.note
  from jsonb_to_recordset(p_bounds) as i (
    tenant text, queue text, method text, rate double precision, in_flight integer, waiters integer, backlog bigint,
    oldest_age double precision, number bigint, updated_at timestamptz, actor text, note text
  )
  -- In one order: two gateways would deadlock otherwise.
  order by i.tenant, i.queue, i.method
  on conflict (tenant, queue, method) do update
  set
    rate = excluded.rate,
    in_flight = excluded.in_flight,
    waiters = excluded.waiters,
    backlog = excluded.backlog,
    oldest_age = excluded.oldest_age,
    number = excluded.number,
    updated_at = excluded.updated_at,
    actor = excluded.actor,
    note = excluded.note
  where b.number < excluded.number
$$;

-- All of them, with those that were taken away.
create function rowcall.kept_bounds()
returns setof rowcall.bound
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select b.* from rowcall.bound b
$$;

-- Tells what a gateway needs, and answers with what the others that live need of the same, by place (from 1):
-- how many they are, and the sums. A gateway that has not told for three seconds counts no more.
create function rowcall.lease_bounds(
  p_gateway_id uuid, p_target text[], p_rate bigint[], p_in_flight integer[], p_in_flight_wanted integer[],
  p_waiters integer[], p_waiters_wanted integer[]
)
returns table (
  place bigint, gateways bigint, rate bigint, in_flight bigint, in_flight_wanted bigint, waiters bigint,
  waiters_wanted bigint
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set jit = off
as $$
#variable_conflict use_column
declare
  v_number bigint;
begin
  -- Nothing is lost with it, so nobody waits for a disk or a standby.
  perform set_config('synchronous_commit', 'off', true);
  select b.number into v_number
  from rowcall.admitting_beat b
  where b.gateway_id = p_gateway_id
  order by b.number desc
  limit 1;
  if v_number is null then
    insert into rowcall.admitting (gateway_id) values (p_gateway_id) on conflict do nothing;
    -- Whoever begins takes away what is left of those that ended, a day after.
    with gone as (
      delete from rowcall.admitting_beat b where b.beat_at < clock_timestamp() - interval '1 day' returning b.gateway_id
    )
    delete from rowcall.admitting a using gone g where a.gateway_id = g.gateway_id;
  else
    delete from rowcall.admitting_beat b where b.gateway_id = p_gateway_id and b.number = v_number;
  end if;
  insert into rowcall.admitting_beat (
    gateway_id, number, beat_at, target, rate, in_flight, in_flight_wanted, waiters, waiters_wanted
  )
  values (
    p_gateway_id, coalesce(v_number, 0) + 1, clock_timestamp(), p_target, p_rate, p_in_flight, p_in_flight_wanted,
    p_waiters, p_waiters_wanted
  );
  return query
  with other as materialized (
    select
      u.target, count(*) as gateways, sum(u.rate)::bigint as rate, sum(u.in_flight) as in_flight,
      sum(u.in_flight_wanted) as in_flight_wanted, sum(u.waiters) as waiters, sum(u.waiters_wanted) as waiters_wanted
    from rowcall.admitting a
    cross join lateral (
      select b.*
      from rowcall.admitting_beat b
      where b.gateway_id = a.gateway_id
      order by b.number desc
      limit 1
    ) b
    cross join lateral unnest(
      b.target, b.rate, b.in_flight, b.in_flight_wanted, b.waiters, b.waiters_wanted
    ) as u (target, rate, in_flight, in_flight_wanted, waiters, waiters_wanted)
    where a.gateway_id <> p_gateway_id and b.beat_at > clock_timestamp() - interval '3 seconds'
    group by u.target
  )
  select i.place, o.gateways, o.rate, o.in_flight, o.in_flight_wanted, o.waiters, o.waiters_wanted
  from unnest(p_target) with ordinality as i (target, place)
  join other o on o.target = i.target;
end
$$;

-- A gateway ends: it counts no more.
create function rowcall.leave_bounds(p_gateway_id uuid)
returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with beats as (
    delete from rowcall.admitting_beat b where b.gateway_id = p_gateway_id
  )
  delete from rowcall.admitting a where a.gateway_id = p_gateway_id
$$;

-- How much waits in queues, never counted: their tenants' leads, as gateways have told of them within a second, and
-- for how long the oldest of the next jobs of each lane has waited. Dead entries lie below the frontier, where this begins. By place.
create function rowcall.queue_loads(p_queue text[])
returns table (place bigint, backlog bigint, oldest interval)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
begin
  return query
  select
    i.place,
    (
      select coalesce(
        sum(
          (greatest(t.last_key - f.frontier, 0) + greatest(t.again_key - f.frontier, 0))
            * coalesce(r.weight, 1) / rowcall.order_stride()
        ),
        0
      )::bigint
      from rowcall.queue_lane l
      cross join lateral (select coalesce(pg_sequence_last_value(l.frontier), 0) as frontier offset 0) f
      join rowcall.turn t on t.queue_id = l.queue_id and t.lane = l.lane
      left join rowcall.tenant_route r on r.tenant = t.tenant
      where l.queue_id = q.queue_id
    ),
    (
      select clock_timestamp() - min(n.ready_at)
      from rowcall.queue_lane l
      cross join lateral (
        select j.ready_at
        from rowcall.job j
        where j.state = 2
          and j.held = 0
          and j.queue_id = l.queue_id
          and j.lane = l.lane
          and j.order_key >= coalesce(pg_sequence_last_value(l.frontier), 0)
        order by j.queue_id, j.lane, j.order_key, j.job_id
        limit 100
      ) n
      where l.queue_id = q.queue_id
    )
  from unnest(p_queue) with ordinality as i (queue, place)
  join rowcall.queue q on q.name = i.queue;
end
$$;

-- Whether a job that is to be READY would be beyond its tenant's backlog bound: its place in its tenant's line of
-- this lane, which is how far its key is ahead of the frontier, in steps of the tenant's weight. Nothing is counted. Of jobs
-- that left the line otherwise than by a claim (cancelled, moved up a lane, rolled back) the frontier knows nothing: so before a
-- job is refused it is looked whether any of the tenant's waits there at all. A tenant's own bound stands in place of each
-- tenant's on the same queue. A call with a key that is there already joins its job, and is no new one. Called where any
-- bound on a backlog is kept here; only functions with a search_path of their own call it.
--
-- p_frontier: of the lane. p_known: the key that the flow's last job got, as far as is known. p_step: how far behind it or the frontier this one
-- comes, for a tenant of weight 1.
create function rowcall.over_backlog(
  p_tenant text, p_queue_id integer, p_lane smallint, p_method_id integer, p_request_id text, p_frontier bigint,
  p_known bigint, p_step bigint, p_weight double precision
)
returns boolean
language plpgsql stable
as $$
declare
  v_most bigint;
begin
  select min(m.backlog) into v_most
  from (
    select distinct on (b.queue) b.backlog
    from rowcall.bound b
    where b.tenant in (p_tenant, '-')
      and b.method = ''
      and b.queue in ('', (select q.name from rowcall.queue q where q.queue_id = p_queue_id))
      and num_nonnulls(b.rate, b.in_flight, b.waiters, b.backlog, b.oldest_age) > 0
    order by b.queue, b.tenant = '-'
  ) m;
  if v_most is null then
    return false;
  end if;
  if greatest(p_known - p_frontier, 0) * p_weight + p_step <= v_most * rowcall.order_stride()::double precision then
    return false;
  end if;
  if p_step <= v_most * rowcall.order_stride()::double precision and not exists (
    select
    from rowcall.job j
    where j.tenant = p_tenant and j.state = 2 and j.queue_id = p_queue_id and j.lane = p_lane
  ) then
    return false;
  end if;
  return p_request_id is null or not exists (
    select
    from rowcall.job_key k
    where k.tenant = p_tenant
      and k.method_id = p_method_id
      and k.request_id = p_request_id
      and k.expires_at > statement_timestamp()
  );
end
$$;

grant execute on function
  rowcall.keep_bounds, rowcall.kept_bounds, rowcall.lease_bounds, rowcall.leave_bounds, rowcall.queue_loads
to rowcall_gateway;
