-- Capability functions for what services agree on: routes, methods, queues,
-- policies, workers, days of history. Owned by the NOLOGIN owner, SECURITY
-- DEFINER, search_path fixed, EXECUTE granted by name in 0009.
set local role rowcall_owner;

-- When a job finishes now, and the day that it then belongs to: of one clock reading.
-- Only functions with a search_path of their own call it.
create function rowcall.finishing_time()
returns table (now timestamptz, day date)
language sql volatile rows 1
as $$
  select c.now, (c.now at time zone 'UTC')::date from (select clock_timestamp() as now) c
$$;

-- Adopts a tenant that the catalogue has placed here, and answers with its route
-- as this shard has it. Never overrides: a tenant that moved away stays away.
create function rowcall.adopt_tenant(p_tenant text, p_epoch bigint)
returns table (epoch bigint, state smallint)
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  insert into rowcall.tenant_route as r (tenant, epoch, state)
  values (p_tenant, p_epoch, 1)
  on conflict (tenant) do update set epoch = r.epoch
  returning r.epoch, r.state
$$;

-- The route of one tenant as this shard has it; no row if it never lived here.
create function rowcall.tenant_route(p_tenant text)
returns table (epoch bigint, state smallint)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select r.epoch, r.state from rowcall.tenant_route r where r.tenant = p_tenant
$$;

create function rowcall.shard_facts()
returns table (shard text, fingerprint_key bytea)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select i.shard, i.fingerprint_key from rowcall.shard_info i
$$;

-- The id of a queue, made with its four lanes if it is new. The sequences'
-- names are made of the id alone, never of what a caller said.
create function rowcall.queue_id(p_name text)
returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
begin
  select q.queue_id into v_id from rowcall.queue q where q.name = p_name;
  if found then
    return v_id;
  end if;
  -- One maker at a time: the lanes must be there when the queue is seen.
  perform pg_advisory_xact_lock(hashtextextended('rowcall.queue', 0));
  select q.queue_id into v_id from rowcall.queue q where q.name = p_name;
  if found then
    return v_id;
  end if;
  insert into rowcall.queue (name) values (p_name) returning rowcall.queue.queue_id into v_id;
  for v_lane in 1..4 loop
    execute format('create sequence rowcall.frontier_%s_%s as bigint minvalue 0 start 0', v_id, v_lane);
    insert into rowcall.queue_lane (queue_id, lane, frontier)
    values (v_id, v_lane, format('rowcall.frontier_%s_%s', v_id, v_lane)::regclass);
  end loop;
  return v_id;
end
$$;

create function rowcall.method_id(p_name text)
returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
begin
  select m.method_id into v_id from rowcall.method m where m.name = p_name;
  if not found then
    insert into rowcall.method as m (name) values (p_name)
    on conflict (name) do update set name = m.name
    returning m.method_id into v_id;
  end if;
  return v_id;
end
$$;

create function rowcall.policy_id(
  p_max_attempts integer,
  p_backoff_initial interval,
  p_backoff_maximum interval,
  p_backoff_multiplier double precision,
  p_timeout interval,
  p_retention smallint,
  p_on_abandon smallint
)
returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
begin
  select p.policy_id into v_id
  from rowcall.policy p
  where (p.max_attempts, p.backoff_initial, p.backoff_maximum, p.backoff_multiplier, p.timeout, p.retention, p.on_abandon)
    = (p_max_attempts, p_backoff_initial, p_backoff_maximum, p_backoff_multiplier, p_timeout, p_retention, p_on_abandon);
  if not found then
    insert into rowcall.policy as p
      (max_attempts, backoff_initial, backoff_maximum, backoff_multiplier, timeout, retention, on_abandon)
    values
      (p_max_attempts, p_backoff_initial, p_backoff_maximum, p_backoff_multiplier, p_timeout, p_retention, p_on_abandon)
    on conflict (max_attempts, backoff_initial, backoff_maximum, backoff_multiplier, timeout, retention, on_abandon)
    do update set max_attempts = p.max_attempts
    returning p.policy_id into v_id;
  end if;
  return v_id;
end
$$;

-- What workers need of every policy and queue, read whole: both tables are small.
create function rowcall.policies()
returns table (
  policy_id integer, max_attempts integer, backoff_initial interval, backoff_maximum interval,
  backoff_multiplier double precision, timeout interval
)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select p.policy_id, p.max_attempts, p.backoff_initial, p.backoff_maximum, p.backoff_multiplier, p.timeout
  from rowcall.policy p
$$;

-- Queues that have live jobs of the methods a worker serves are found by name:
-- a worker drains every queue unless it was told which.
create function rowcall.queues()
returns table (queue_id integer, name text, paused boolean)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select q.queue_id, q.name, q.paused_at is not null from rowcall.queue q order by q.queue_id
$$;

create function rowcall.register_worker(p_worker_id uuid, p_name text, p_lease interval)
returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  insert into rowcall.worker (worker_id, name, lease_until)
  values (p_worker_id, p_name, clock_timestamp() + p_lease)
$$;

-- Renews the one lease of all of a worker's jobs. False: the worker was declared
-- dead; it must stop what it runs and start again under a new identity.
create function rowcall.renew_worker(p_worker_id uuid, p_lease interval)
returns boolean
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with renewed as (
    update rowcall.worker w
    set renewed_at = clock_timestamp(), lease_until = clock_timestamp() + p_lease
    where w.worker_id = p_worker_id and w.dead_at is null
    returning 1
  )
  select exists (select from renewed)
$$;

-- A worker that has drained takes its leave; what it still held is rescued.
create function rowcall.retire_worker(p_worker_id uuid)
returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  update rowcall.worker w
  set dead_at = clock_timestamp()
  where w.worker_id = p_worker_id and w.dead_at is null
$$;

-- Makes the days of history from yesterday to p_days ahead. Each day is made as
-- a table of its own and then attached: ATTACH, unlike CREATE ... PARTITION OF,
-- does not stop writers; the CHECK spares it the scan.
create function rowcall.make_history_days(p_days integer)
returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_made integer := 0;
  v_parent text;
  v_day date;
  v_table text;
begin
  if p_days not between 1 and 400 then
    raise exception 'make_history_days: % days asked for, 1 to 400 are possible', p_days
      using errcode = 'invalid_parameter_value';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('rowcall.job_history', 0));
  foreach v_parent in array array['job_history_short', 'job_history_standard', 'job_history_long'] loop
    for v_day in select ((clock_timestamp() at time zone 'UTC')::date + n)::date from generate_series(-1, p_days) as n loop
      v_table := format('%s_%s', v_parent, to_char(v_day, 'YYYYMMDD'));
      continue when to_regclass('rowcall.' || v_table) is not null;
      execute format('create table rowcall.%I (like rowcall.%I including defaults including constraints)', v_table, v_parent);
      execute format(
        'alter table rowcall.%I add constraint day check (finished_on is not null and finished_on >= %L and finished_on < %L)',
        v_table, v_day, v_day + 1
      );
      execute format(
        'alter table rowcall.%I attach partition rowcall.%I for values from (%L) to (%L)',
        v_parent, v_table, v_day, v_day + 1
      );
      execute format('alter table rowcall.%I drop constraint day', v_table);
      v_made := v_made + 1;
    end loop;
  end loop;
  return v_made;
end
$$;
