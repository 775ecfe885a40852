-- Claiming: ready jobs become a worker's, under a new lease number.
set local role rowcall_owner;

-- What a worker gets of a job. time_left: of the whole job's deadline; null: it has none.
-- waiter_id: the gateway that waits for it.
create type rowcall.claimed_job as (
  tenant text, job_id uuid, lease bigint, attempt integer, lane smallint, order_key bigint,
  method_id integer, policy_id integer, request bytea, request_id text, actor text,
  traceparent text, tracestate text, labels jsonb, lost integer,
  time_left interval, waiter_id uuid, queue_id integer
);

-- What of these queues and methods a worker may claim now.
create type rowcall.claimable as (
  -- Whether the worker is alive.
  alive boolean,
  -- Those that are not paused.
  queue_id integer[], method_id integer[],
  -- The tenants that are paused: few, and read with each claim, not with each row.
  paused_tenants text[]
);

-- In one statement: to begin another one costs more than to read what it reads. Only
-- functions with a search_path of their own call it; in plpgsql, which keeps plans.
create function rowcall.claimable(p_worker_id uuid, p_queue_id integer[], p_method_id integer[])
returns rowcall.claimable
language plpgsql stable
as $$
declare
  v_found rowcall.claimable;
begin
  select
    exists (select from rowcall.worker w where w.worker_id = p_worker_id and w.dead_at is null),
    array(
      select a.queue_id
      from unnest(p_queue_id) as a (queue_id)
      where not exists (select from rowcall.queue q where q.queue_id = a.queue_id and q.paused_at is not null)
    ),
    array(
      select a.method_id
      from unnest(p_method_id) as a (method_id)
      where not exists (select from rowcall.method m where m.method_id = a.method_id and m.paused_at is not null)
    ),
    array(select r.tenant from rowcall.tenant_route r where r.paused_at is not null)
  into v_found;
  return v_found;
end
$$;

-- Claims up to p_limit ready jobs of one queue for a worker, lanes first, within a
-- lane in the order of their keys from p_from[lane] on (the worker's low-water
-- mark: dead index entries behind it cost nothing even while vacuum cannot take
-- them away), or, of a worker that has none (-1), from the lane's frontier on. Every claim raises the job's lease number and moves the lane's frontier
-- up to the highest key it got (two claimers may race it back a little: sweeps find
-- what then lands behind a mark). A dead worker and a paused queue get nothing, and
-- jobs of paused methods and tenants are passed over. The answer is in no particular order.
create function rowcall.claim_jobs(
  p_worker_id uuid,
  p_queue_id integer,
  p_method_id integer[],
  p_from bigint[],
  p_limit integer
)
returns setof rowcall.claimed_job
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- One plan is kept for the session, and the table may have been empty when it was
-- made: an index range scan and a lookup by position are right at every size,
-- compiling them never is.
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_left integer := p_limit;
  v_found integer;
  v_open rowcall.claimable := rowcall.claimable(p_worker_id, array[p_queue_id], p_method_id);
  v_first bigint[];
begin
  if not v_open.alive or v_open.queue_id = '{}' then
    return;
  end if;
  -- To begin the statement below costs more than to look whether there is anything: most
  -- lanes of most queues are empty. It then begins at what was found here, so that dead
  -- entries are walked over once.
  v_first := array(
    select (
      select j.order_key
      from rowcall.job j
      where j.state = 2
        and j.held = 0
        and j.queue_id = p_queue_id
        and j.lane = l.lane
        and j.order_key >= case
          when p_from[l.lane] >= 0 then p_from[l.lane]
          else coalesce((
            select pg_sequence_last_value(f.frontier)
            from rowcall.queue_lane f
            where f.queue_id = p_queue_id and f.lane = l.lane
          ), 0)
        end
      order by j.queue_id, j.lane, j.order_key, j.job_id
      limit 1
    )
    from generate_series(1, 4) as l (lane)
  );
  for v_lane in 1..4 loop
    exit when v_left <= 0;
    continue when v_first[v_lane] is null;
    return query
      with picked as materialized (
        select j.ctid
        from rowcall.job j
        where j.state = 2
          and j.held = 0
          and j.queue_id = p_queue_id
          and j.lane = v_lane
          and j.order_key >= v_first[v_lane]
          and j.method_id = any (v_open.method_id)
          and j.tenant <> all (v_open.paused_tenants)
        order by j.queue_id, j.lane, j.order_key, j.job_id
        limit v_left
        for update skip locked
      ),
      claimed as (
        update rowcall.job j
        set
          state = 3,
          lease = j.lease + 1,
          attempt = j.attempt + 1,
          worker_id = p_worker_id,
          started_at = clock_timestamp(),
          attempt_deadline = least(clock_timestamp() + p.timeout, j.deadline)
        from picked, rowcall.policy p
        -- Locked: it cannot move. One that did just before is left for the next claim.
        where j.ctid = picked.ctid and p.policy_id = j.policy_id
        returning
          j.tenant, j.job_id, j.lease, j.attempt, j.lane, j.order_key, j.method_id, j.policy_id, j.request,
          j.request_id, j.actor, rowcall.traceparent(j.trace_id, j.parent_span_id, j.trace_flags), j.tracestate,
          j.labels, j.lost, j.deadline - clock_timestamp(), j.waiter_id, j.queue_id
      ),
      advanced as materialized (
        select setval(l.frontier, h.highest)
        from (select max(c.order_key) as highest from claimed c) h
        join rowcall.queue_lane l on l.queue_id = p_queue_id and l.lane = v_lane
        where h.highest > coalesce(pg_sequence_last_value(l.frontier), 0)
      )
      -- The join does nothing but have the frontier advanced.
      select c.* from claimed c left join advanced a on true;
    get diagnostics v_found = row_count;
    v_left := v_left - v_found;
  end loop;
end
$$;

-- Claims suspects (jobs that were lost twice in a row) of these queues for a worker
-- process that runs nothing else until they have ended: what kills it is known to be
-- among them. What something else holds too (its tenant is paused) is passed over. Lanes first, then what has waited longest. What comes first says what is
-- claimed: one that is to run alone (what a group lost is) by itself, else as many as
-- p_limit of the others, as a group. Whatever is claimed by itself runs alone.
create function rowcall.claim_suspects(
  p_worker_id uuid, p_queue_id integer[], p_method_id integer[], p_limit integer
)
returns setof rowcall.claimed_job
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_open rowcall.claimable := rowcall.claimable(p_worker_id, p_queue_id, p_method_id);
  v_held smallint;
begin
  if not v_open.alive then
    return;
  end if;
  select j.held into v_held
  from rowcall.job j
  where j.state = 2
    -- The first for the index, the second for what is held as nothing else.
    and j.held & 2 = 2
    and j.held in (2, 6)
    and j.queue_id = any (v_open.queue_id)
    and j.method_id = any (v_open.method_id)
    and j.tenant <> all (v_open.paused_tenants)
  order by j.lane, j.ready_at
  limit 1;
  if not found then
    return;
  end if;
  return query
  with picked as materialized (
    select j.tenant, j.job_id
    from rowcall.job j
    where j.state = 2
      and j.held & 2 = 2
      and j.held = v_held
      and j.queue_id = any (v_open.queue_id)
      and j.method_id = any (v_open.method_id)
      and j.tenant <> all (v_open.paused_tenants)
    order by j.lane, j.ready_at
    limit case when v_held = 6 then 1 else p_limit end
    for update skip locked
  )
  update rowcall.job j
  set
    state = 3,
    held = case when (select count(*) from picked) = 1 then 6 else j.held end,
    lease = j.lease + 1,
    attempt = j.attempt + 1,
    worker_id = p_worker_id,
    started_at = clock_timestamp(),
    attempt_deadline = least(clock_timestamp() + p.timeout, j.deadline)
  from picked k, rowcall.policy p
  where j.tenant = any (array[k.tenant]) and j.job_id = k.job_id and p.policy_id = j.policy_id
  returning
    j.tenant, j.job_id, j.lease, j.attempt, j.lane, j.order_key, j.method_id, j.policy_id, j.request,
    j.request_id, j.actor, rowcall.traceparent(j.trace_id, j.parent_span_id, j.trace_flags), j.tracestate, j.labels,
    j.lost, j.deadline - clock_timestamp(), j.waiter_id, j.queue_id;
end
$$;

-- How many suspects there are that a worker could run in groups; p_limit at most are counted.
create function rowcall.count_suspects(p_queue_id integer[], p_method_id integer[], p_limit integer)
returns bigint
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_open rowcall.claimable := rowcall.claimable(null, p_queue_id, p_method_id);
begin
  return (
    select count(*)
    from (
      select
      from rowcall.job j
      where j.state = 2
        and j.held & 2 = 2
        and j.held = 2
        and j.queue_id = any (v_open.queue_id)
        and j.method_id = any (v_open.method_id)
        and j.tenant <> all (v_open.paused_tenants)
      limit p_limit
    ) s
  );
end
$$;

-- For how long a suspect that this worker could run has waited; null: there is none.
create function rowcall.suspect_waits(p_queue_id integer[], p_method_id integer[])
returns interval
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_open rowcall.claimable := rowcall.claimable(null, p_queue_id, p_method_id);
begin
  return (
    select clock_timestamp() - min(j.ready_at)
    from rowcall.job j
    where j.state = 2
      and j.held & 2 = 2
      and j.held in (2, 6)
      and j.queue_id = any (v_open.queue_id)
      and j.method_id = any (v_open.method_id)
      and j.tenant <> all (v_open.paused_tenants)
  );
end
$$;
