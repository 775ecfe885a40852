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
  budget numeric,
  budget_currency text,
  budget_period smallint,
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
    tenant, queue, method, rate, in_flight, waiters, backlog, oldest_age, number, updated_at, actor, note,
    budget, budget_currency, budget_period
  )
  select
    i.tenant, i.queue, i.method, i.rate, i.in_flight, i.waiters, i.backlog, make_interval(secs => i.oldest_age), i.number,
    i.updated_at, i.actor, i.note, i.budget, i.budget_currency, i.budget_period
  from jsonb_to_recordset(p_bounds) as i (
    tenant text, queue text, method text, rate double precision, in_flight integer, waiters integer, backlog bigint,
    oldest_age double precision, number bigint, updated_at timestamptz, actor text, note text,
    budget numeric, budget_currency text, budget_period smallint
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
    note = excluded.note,
    budget = excluded.budget,
    budget_currency = excluded.budget_currency,
    budget_period = excluded.budget_period
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

-- How much waits in each lane of some queues, never counted: their tenants' leads, as gateways have told of them within a second.
create function rowcall.lane_backlogs(p_queue_id integer[])
returns table (queue_id integer, lane smallint, backlog double precision)
-- All turns are read, once, whatever whoever calls has switched off.
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = on set enable_hashjoin = on set jit = off
as $$
#variable_conflict use_column
begin
  return query
  select
    l.queue_id, l.lane,
    coalesce(
      sum(
        (greatest(t.last_key - f.frontier, 0) + greatest(t.again_key - f.frontier, 0))
          * coalesce(r.weight, 1) / rowcall.order_stride()
      ),
      0
    )
  from rowcall.queue_lane l
  cross join lateral (select coalesce(pg_sequence_last_value(l.frontier), 0) as frontier offset 0) f
  left join rowcall.turn t on t.queue_id = l.queue_id and t.lane = l.lane
  left join rowcall.tenant_route r on r.tenant = t.tenant
  where l.queue_id = any (p_queue_id)
  group by l.queue_id, l.lane;
end
$$;

-- For how long the oldest of the next jobs of each lane has waited. Dead entries lie below the frontier, where this begins.
create function rowcall.lane_ages(p_queue_id integer[])
returns table (queue_id integer, lane smallint, oldest interval)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
begin
  return query
  select
    l.queue_id, l.lane,
    (
      select clock_timestamp() - min(n.ready_at)
      from (
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
    )
  from rowcall.queue_lane l
  where l.queue_id = any (p_queue_id);
end
$$;

-- Both, of whole queues, by place.
create function rowcall.queue_loads(p_queue text[])
returns table (place bigint, backlog bigint, oldest interval)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  with asked as materialized (
    select i.place, q.queue_id
    from unnest(p_queue) with ordinality as i (queue, place)
    join rowcall.queue q on q.name = i.queue
  ),
  backlogs as materialized (
    select b.queue_id, sum(b.backlog)::bigint as backlog
    from rowcall.lane_backlogs(array(select a.queue_id from asked a)) b
    group by b.queue_id
  ),
  ages as materialized (
    select g.queue_id, max(g.oldest) as oldest
    from rowcall.lane_ages(array(select a.queue_id from asked a)) g
    group by g.queue_id
  )
  select a.place, b.backlog, g.oldest
  from asked a
  join backlogs b on b.queue_id = a.queue_id
  join ages g on g.queue_id = a.queue_id
$$;

-- How many jobs of tenants are READY and held by nothing, by their leads in every queue and lane, as queue_loads has it; those
-- that have none are left out.
create function rowcall.tenant_leads(p_tenant text[])
returns table (tenant text, waiting bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  select d.tenant, d.waiting
  from (
    select
      a.tenant,
      sum(
        (greatest(t.last_key - f.frontier, 0) + greatest(t.again_key - f.frontier, 0))
          * coalesce(r.weight, 1) / rowcall.order_stride()
      )::bigint as waiting
    from unnest(p_tenant) as a (tenant)
    cross join rowcall.queue_lane l
    cross join lateral (select coalesce(pg_sequence_last_value(l.frontier), 0) as frontier offset 0) f
    join rowcall.turn t on t.tenant = a.tenant and t.queue_id = l.queue_id and t.lane = l.lane
    left join rowcall.tenant_route r on r.tenant = a.tenant
    group by a.tenant
  ) d
  where d.waiting > 0
$$;

-- What living workers run of each queue and could, as they said with their last renewals.
create function rowcall.worker_loads()
returns table (queue_id integer, slots bigint, running bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  select u.queue_id, sum(u.slots)::bigint, sum(u.jobs)::bigint
  from rowcall.worker w
  cross join lateral rowcall.last_beat(w.worker_id) b
  cross join lateral unnest(b.busy_queue_id, b.busy_jobs, b.busy_slots) as u (queue_id, jobs, slots)
  where w.dead_at is null and b.lease_until > clock_timestamp()
  group by u.queue_id
$$;

-- Every queue as whoever watches sees it: what waits (queue_loads), what runs (worker_loads), and what happened today. Nothing is
-- counted.
create function rowcall.queue_activity()
returns table (
  name text, paused boolean, waiting bigint, oldest interval, running bigint, accepted bigint, started bigint,
  succeeded bigint, failed bigint, dead bigint, cancelled bigint, answered_in_time bigint, answered_joined bigint,
  answered_operation bigint, answered_still_running bigint, answered_failed bigint
)
language sql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
  with named as materialized (
    select q.queue_id, q.name, q.paused_at is not null as paused, row_number() over (order by q.name) as place
    from rowcall.queue q
  )
  select
    n.name, n.paused, l.backlog, l.oldest, coalesce(w.running, 0), coalesce(t.accepted, 0), coalesce(t.started, 0),
    coalesce(t.succeeded, 0), coalesce(t.failed, 0), coalesce(t.dead, 0), coalesce(t.cancelled, 0),
    coalesce(t.answered_in_time, 0), coalesce(t.answered_joined, 0), coalesce(t.answered_operation, 0),
    coalesce(t.answered_still_running, 0), coalesce(t.answered_failed, 0)
  from named n
  join rowcall.queue_loads(array(select a.name from named a order by a.place)) l on l.place = n.place
  left join rowcall.worker_loads() w on w.queue_id = n.queue_id
  left join rowcall.queue_tallies() t on t.queue_id = n.queue_id
  order by n.name
$$;

-- What was seen of the queues that are bounded as a whole, for what is submitted here by handlers and in SQL: a row with the next
-- number each time, and the one before taken away, read from the highest down (as worker_beat).
create table rowcall.queue_look (
  queue_id integer not null references rowcall.queue,
  number bigint not null,
  looked_at timestamptz not null,
  backlog bigint not null,
  oldest interval,
  primary key (queue_id, number)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- As queue_loads, and keeps what was seen, unless another gateway just did.
create function rowcall.look_at_queues(p_queue text[])
returns table (place bigint, backlog bigint, oldest interval)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set jit = off
as $$
#variable_conflict use_column
declare
  v_load record;
  v_last record;
begin
  perform set_config('synchronous_commit', 'off', true);
  for v_load in
    select l.place, q.queue_id, l.backlog, l.oldest
    from rowcall.queue_loads(p_queue) l
    join rowcall.queue q on q.name = p_queue[l.place]
    order by q.queue_id
  loop
    select l.number, l.looked_at > clock_timestamp() - interval '500 milliseconds' as fresh into v_last
    from rowcall.queue_look l
    where l.queue_id = v_load.queue_id
    order by l.number desc
    limit 1;
    if not coalesce(v_last.fresh, false) then
      insert into rowcall.queue_look (queue_id, number, looked_at, backlog, oldest)
      values (v_load.queue_id, coalesce(v_last.number, 0) + 1, clock_timestamp(), v_load.backlog, v_load.oldest)
      on conflict do nothing;
      delete from rowcall.queue_look l where l.queue_id = v_load.queue_id and l.number = v_last.number;
    end if;
    place := v_load.place;
    backlog := v_load.backlog;
    oldest := v_load.oldest;
    return next;
  end loop;
end
$$;

-- How many of a tenant's jobs wait otherwise than in its line: SCHEDULED, and READY but held. Counted as they come and go,
-- in slots, of which a transaction has one to itself until it ends: nobody waits for another one, whatever is counted in what order.
create table rowcall.set_aside (
  tenant text not null,
  queue_id integer not null,
  lane smallint not null,
  slot bigint not null,
  -- A row of its own each time, and the one before is taken away, counted down (as tally): the lowest is met first, whatever a held
  -- snapshot keeps of those before it.
  number bigint not null,
  scheduled bigint not null,
  held bigint not null,
  primary key (tenant, queue_id, lane, slot, number)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- The slot of this transaction. Where its snapshot is of its beginning, what others have counted since would refuse it, so it has one that
-- nobody ever had.
create function rowcall.aside_slot()
returns bigint
language plpgsql volatile
as $$
declare
  c_slots constant integer := hashtext('rowcall.set_aside');
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    return -(pg_current_xact_id()::text::bigint);
  end if;
  for v_slot in 0..15 loop
    if pg_try_advisory_xact_lock(c_slots, v_slot) then
      return v_slot;
    end if;
  end loop;
  return 16 + pg_backend_pid();
end
$$;

-- Counts in a slot, which is this transaction's. Only functions with a search_path of their own call it.
create function rowcall.add_aside(
  p_tenant text, p_queue_id integer, p_lane smallint, p_slot bigint, p_scheduled bigint, p_held bigint
)
returns void
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
declare
  v_number bigint;
  v_scheduled bigint;
  v_held bigint;
begin
  if p_slot < 0 then
    -- Of two serializable transactions that both looked whether there is a row, one would fail; this does not look.
    insert into rowcall.set_aside as a (tenant, queue_id, lane, slot, number, scheduled, held)
    values (p_tenant, p_queue_id, p_lane, p_slot, 0, p_scheduled, p_held)
    on conflict (tenant, queue_id, lane, slot, number) do update
    set scheduled = a.scheduled + excluded.scheduled, held = a.held + excluded.held;
    return;
  end if;
  -- What was there is what could be taken away: fold_aside may have been before.
  delete from rowcall.set_aside a
  where a.tenant = p_tenant
    and a.queue_id = p_queue_id
    and a.lane = p_lane
    and a.slot = p_slot
    and a.number = (
      select l.number
      from rowcall.set_aside l
      where l.tenant = p_tenant and l.queue_id = p_queue_id and l.lane = p_lane and l.slot = p_slot
      order by l.number
      limit 1
    )
  returning a.number, a.scheduled, a.held into v_number, v_scheduled, v_held;
  -- The first one is below all that were there earlier: by its time.
  v_number := coalesce(v_number, -(extract(epoch from clock_timestamp()) * 1000000)::bigint) - 1;
  insert into rowcall.set_aside (tenant, queue_id, lane, slot, number, scheduled, held)
  values (
    p_tenant, p_queue_id, p_lane, p_slot, v_number, coalesce(v_scheduled, 0) + p_scheduled, coalesce(v_held, 0) + p_held
  );
end
$$;

-- What is set aside of a tenant in a lane of a queue: of each slot that there is, the first entry.
create function rowcall.aside(
  p_tenant text, p_queue_id integer, p_lane smallint, out scheduled bigint, out held bigint
)
language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
#variable_conflict use_column
declare
  v_slot bigint := -9223372036854775808;
  v_found record;
begin
  scheduled := 0;
  held := 0;
  loop
    select a.slot, a.scheduled, a.held into v_found
    from rowcall.set_aside a
    where a.tenant = p_tenant and a.queue_id = p_queue_id and a.lane = p_lane and a.slot > v_slot
    order by a.tenant, a.queue_id, a.lane, a.slot, a.number
    limit 1;
    exit when not found;
    v_slot := v_found.slot;
    scheduled := scheduled + v_found.scheduled;
    held := held + v_found.held;
  end loop;
end
$$;

-- Puts together what transactions have counted in slots of their own, and takes away what counts nothing any more: some p_limit rows.
create function rowcall.fold_aside(p_limit integer)
returns void
language plpgsql volatile
as $$
declare
  v_slot bigint;
  v_sums jsonb;
begin
  delete from rowcall.set_aside a
  where a.ctid = any (array(
    select p.ctid from rowcall.set_aside p where p.scheduled = 0 and p.held = 0 limit p_limit for update skip locked
  ));
  if not exists (select from rowcall.set_aside a where a.slot not between 0 and 15) then
    return;
  end if;
  v_slot := rowcall.aside_slot();
  with gone as (
    delete from rowcall.set_aside a
    where a.ctid = any (array(
      select p.ctid from rowcall.set_aside p where p.slot not between 0 and 15 limit p_limit for update skip locked
    ))
    returning a.tenant, a.queue_id, a.lane, a.scheduled, a.held
  )
  select
    jsonb_agg(jsonb_build_object('tenant', s.tenant, 'queue_id', s.queue_id, 'lane', s.lane, 'scheduled', s.scheduled, 'held', s.held))
  into v_sums
  from (
    select g.tenant, g.queue_id, g.lane, sum(g.scheduled) as scheduled, sum(g.held) as held
    from gone g
    group by g.tenant, g.queue_id, g.lane
  ) s;
  perform rowcall.add_aside(s.tenant, s.queue_id, s.lane, v_slot, s.scheduled, s.held)
  from jsonb_to_recordset(v_sums) as s (tenant text, queue_id integer, lane smallint, scheduled bigint, held bigint);
end
$$;

create function rowcall.count_aside()
returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_slot bigint := rowcall.aside_slot();
begin
  if tg_op <> 'INSERT' and (old.state = 1 or old.state = 2 and old.held <> 0) then
    perform rowcall.add_aside(
      old.tenant, old.queue_id, old.lane, v_slot, -(old.state = 1)::integer, -(old.state = 2)::integer
    );
  end if;
  if tg_op <> 'DELETE' and (new.state = 1 or new.state = 2 and new.held <> 0) then
    perform rowcall.add_aside(
      new.tenant, new.queue_id, new.lane, v_slot, (new.state = 1)::integer, (new.state = 2)::integer
    );
  end if;
  return null;
end
$$;

-- Of a job that is neither, before and after, each costs a comparison.
create trigger comes_aside after insert on rowcall.job
for each row when (new.state = 1 or new.state = 2 and new.held <> 0)
execute function rowcall.count_aside();
create trigger leaves_aside after delete on rowcall.job
for each row when (old.state = 1 or old.state = 2 and old.held <> 0)
execute function rowcall.count_aside();
create trigger moves_aside after update of state, held, lane on rowcall.job
for each row when (
  (old.state = 1) <> (new.state = 1)
  or (old.state = 2 and old.held <> 0) <> (new.state = 2 and new.held <> 0)
  or old.lane <> new.lane and (new.state = 1 or new.state = 2 and new.held <> 0)
)
execute function rowcall.count_aside();

-- The backlog that a tenant is bounded to in a queue; null where it is to none. A tenant's own bound stands in place of each
-- tenant's on the same queue.
create function rowcall.most_backlog(p_tenant text, p_queue_id integer)
returns bigint
language sql stable
as $$
  select min(m.backlog)
  from (
    select distinct on (b.queue) b.backlog
    from rowcall.bound b
    where b.tenant in (p_tenant, '-')
      and b.method = ''
      and b.queue in ('', (select q.name from rowcall.queue q where q.queue_id = p_queue_id))
      and num_nonnulls(b.rate, b.in_flight, b.waiters, b.backlog, b.oldest_age, b.budget) > 0
    order by b.queue, b.tenant = '-'
  ) m
$$;

-- Whether a key names no job yet: a call that has one joins it, and is no new one.
create function rowcall.is_new_key(p_tenant text, p_method_id integer, p_request_id text)
returns boolean
language sql stable
as $$
  select p_request_id is null or not exists (
    select
    from rowcall.job_key k
    where k.tenant = p_tenant
      and k.method_id = p_method_id
      and k.request_id = p_request_id
      and k.expires_at > statement_timestamp()
  )
$$;

-- Whether any job of a tenant is among the next ten thousand of a lane, or there are so many that nobody looks further. From the frontier on:
-- dead entries lie below it.
create function rowcall.is_in_line(p_tenant text, p_queue_id integer, p_lane smallint, p_frontier bigint)
returns boolean
language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
declare
  v_tenant text;
  v_others integer := 0;
begin
  for v_tenant in
    select j.tenant
    from rowcall.job j
    where j.state = 2 and j.held = 0 and j.queue_id = p_queue_id and j.lane = p_lane and j.order_key > p_frontier
    order by j.queue_id, j.lane, j.order_key, j.job_id
    limit 10000
  loop
    if v_tenant = p_tenant then
      return true;
    end if;
    v_others := v_others + 1;
  end loop;
  return v_others = 10000;
end
$$;

-- Whether a job that is to be READY would be beyond its tenant's backlog bound: its place in its tenant's line of
-- this lane, which is how far its key is ahead of the frontier, in steps of the tenant's weight; or the tenant's jobs that are held, where
-- those are more: some of them are behind the frontier, some ahead. Nothing is counted. Of jobs
-- that left the line otherwise than by a claim (cancelled, moved up a lane, rolled back) the frontier knows nothing: so before a
-- job is refused for its place it is looked whether any of the tenant's waits there at all. Called where any
-- bound on a backlog is kept here; only functions with a search_path of their own call it, and the two behind it.
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
  v_most bigint := rowcall.most_backlog(p_tenant, p_queue_id);
  v_room double precision := v_most * rowcall.order_stride()::double precision;
  v_held bigint;
begin
  if v_most is null then
    return false;
  end if;
  v_held := (rowcall.aside(p_tenant, p_queue_id, p_lane)).held;
  if v_held < v_most and p_step <= v_room then
    if greatest(p_known - p_frontier, 0) * p_weight + p_step <= v_room then
      return false;
    end if;
    if v_held = 0 and not rowcall.is_in_line(p_tenant, p_queue_id, p_lane, p_frontier) then
      return false;
    end if;
  end if;
  return rowcall.is_new_key(p_tenant, p_method_id, p_request_id);
end
$$;

-- A tenant's SCHEDULED jobs in a queue. Asked where a backlog is bounded only: of two serializable transactions that both look and both
-- submit, one fails, and comes again as such transactions must.
create function rowcall.scheduled(p_tenant text, p_queue_id integer)
returns bigint
language sql stable
as $$
  select coalesce(sum((rowcall.aside(p_tenant, p_queue_id, l.lane)).scheduled), 0)::bigint
  from rowcall.queue_lane l
  where l.queue_id = p_queue_id
$$;

-- Whether a job that is to be SCHEDULED would be beyond it: of those a tenant may have as many in a queue as of READY ones in a lane.
-- p_place: which one of its batch it is, of those.
create function rowcall.over_schedule(
  p_tenant text, p_queue_id integer, p_method_id integer, p_request_id text, p_place bigint
)
returns boolean
language sql stable
as $$
  select coalesce(
    rowcall.scheduled(p_tenant, p_queue_id) + p_place > rowcall.most_backlog(p_tenant, p_queue_id)
      and rowcall.is_new_key(p_tenant, p_method_id, p_request_id),
    false
  )
$$;

-- Whether a queue as a whole is beyond its bound, as far as gateways have seen; what they have not seen for a minute refuses nobody.
create function rowcall.queue_full(p_queue_id integer)
returns boolean
language sql stable
as $$
  select exists (
    select
    from rowcall.queue q
    join rowcall.bound b on b.tenant = '' and b.queue = q.name and b.method = ''
    cross join lateral (
      select l.* from rowcall.queue_look l where l.queue_id = q.queue_id order by l.number desc limit 1
    ) l
    where q.queue_id = p_queue_id
      and l.looked_at > clock_timestamp() - interval '1 minute'
      and (l.backlog >= b.backlog or l.oldest > b.oldest_age)
  )
$$;

-- Refuses what submit_v1 is about to write where a bound lets no more in. p_base: what its key is ahead of; null: it has none yet, for it
-- is for later or has to wait for its turn, behind what waits so already.
create function rowcall.check_bounds_v1(
  p_tenant text, p_method text, p_method_id integer, p_queue_id integer, p_lane smallint, p_later boolean, p_base bigint,
  p_weight double precision
)
returns void
language plpgsql stable
as $$
declare
  v_over boolean;
begin
  if rowcall.queue_full(p_queue_id) then
    raise exception 'submit_v1: the queue of the method % has as many jobs waiting as its bound lets in, or for as long',
      quote_literal(p_method)
      using
        errcode = 'configuration_limit_exceeded',
        hint = 'Submit again when some have run, or have an admin set another bound: rowcall admission list.';
  end if;
  if p_later then
    v_over := rowcall.over_schedule(p_tenant, p_queue_id, p_method_id, null, 1);
  else
    select
      rowcall.over_backlog(
        p_tenant, l.queue_id, l.lane, p_method_id, null, f.frontier,
        coalesce(p_base, greatest(t.last_key, t.again_key), 0),
        rowcall.order_stride() * (1 + case when p_base is null then rowcall.scheduled(p_tenant, p_queue_id) else 0 end),
        p_weight
      )
    into v_over
    from rowcall.queue_lane l
    cross join lateral (select coalesce(pg_sequence_last_value(l.frontier), 0) as frontier offset 0) f
    left join rowcall.turn t on t.tenant = p_tenant and t.queue_id = l.queue_id and t.lane = l.lane
    where l.queue_id = p_queue_id and l.lane = p_lane;
  end if;
  if v_over then
    raise exception 'submit_v1: the tenant % has as many jobs waiting for this queue as its bound lets in', quote_literal(p_tenant)
      using
        errcode = 'configuration_limit_exceeded',
        hint = 'Submit again when some have run, or have an admin set another bound: rowcall admission list.';
  end if;
end
$$;

grant execute on function
  rowcall.keep_bounds, rowcall.kept_bounds, rowcall.lease_bounds, rowcall.leave_bounds, rowcall.look_at_queues,
  rowcall.queue_activity, rowcall.tenant_leads
to rowcall_gateway;
