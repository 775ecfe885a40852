-- What people and services read of jobs, and what callers do to them one by one:
-- the view rowcall.jobs, and capability functions that all begin with the tenant.
set local role rowcall_owner;

-- Live and finished jobs as one table that a person can read. Payloads are left
-- out: they are protobuf bytes, decoded by GetJob's JOB_VIEW_FULL.
create view rowcall.jobs as
select
  'tenants/' || j.tenant || '/operations/' || j.job_id as name,
  j.tenant,
  j.job_id,
  m.name as method,
  q.name as queue,
  (array['SCHEDULED', 'READY', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'RESOLVED'])[j.state] as state,
  (array['URGENT', 'HIGH', 'NORMAL', 'LOW'])[j.lane] as priority,
  j.attempt,
  p.max_attempts,
  j.lost,
  j.actor,
  j.request_id,
  split_part(j.traceparent, '-', 2) as trace_id,
  j.labels,
  j.created_at,
  j.run_at,
  j.ready_at,
  j.started_at,
  j.finished_at,
  j.cancel_requested_at,
  coalesce(j.worker, w.name) as worker,
  j.error_code,
  j.error_message,
  octet_length(j.request) as request_bytes,
  octet_length(j.response) as response_bytes,
  j.attempts
from (
  select
    tenant, job_id, state, lane, queue_id, method_id, policy_id, attempt, lost, actor, request_id, traceparent, labels,
    created_at, run_at, ready_at, started_at, null::timestamptz as finished_at, cancel_requested_at, worker_id,
    null::text as worker, null::integer as error_code, null::text as error_message, request, null::bytea as response, attempts
  from rowcall.job
  union all
  select
    tenant, job_id, state, lane, queue_id, method_id, policy_id, attempt, lost, actor, request_id, traceparent, labels,
    created_at, run_at, ready_at, started_at, finished_at, cancel_requested_at, worker_id,
    worker, error_code, error_message, request, response, attempts
  from rowcall.job_history
) j
join rowcall.method m on m.method_id = j.method_id
join rowcall.queue q on q.queue_id = j.queue_id
join rowcall.policy p on p.policy_id = j.policy_id
left join rowcall.worker w on w.worker_id = j.worker_id;

-- The first day that one of these jobs can have finished on, as history counts days.
create function rowcall.earliest_day(p_job_id uuid[])
returns date
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select (rowcall.uuid_time(a.job_id) at time zone 'UTC')::date - 1
  from unnest(p_job_id) as a (job_id)
  order by a.job_id
  limit 1
$$;

-- One row of either kind, as services read it.
create type rowcall.job_row as (
  tenant text, job_id uuid, state smallint, lane smallint, queue text, method text, attempt integer,
  max_attempts integer, created_at timestamptz, run_at timestamptz, started_at timestamptz, finished_at timestamptz,
  cancel_requested_at timestamptz, worker text, actor text, request_id text, traceparent text, labels jsonb,
  attempts jsonb, span_id text, error bytea, request bytea, response bytea
);

-- Jobs by name, live or finished. The lowest id's time bounds the days of history
-- that are looked through (with a day's slack for a gateway's clock; the upper
-- bound spares the days that were made ahead). Unknown or foreign ids have no row.
-- p_request and p_response: with the payloads, else null.
create function rowcall.read_jobs(p_tenant text[], p_job_id uuid[], p_request boolean, p_response boolean)
returns setof rowcall.job_row
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_since date := rowcall.earliest_day(p_job_id);
  v_until date := (statement_timestamp() at time zone 'UTC')::date + 1;
begin
  return query
  with asked as materialized (
    select a.tenant, a.job_id from unnest(p_tenant, p_job_id) as a (tenant, job_id)
  ),
  found as (
    select
      j.tenant, j.job_id, j.state, j.lane, j.queue_id, j.method_id, j.policy_id, j.attempt, j.created_at, j.run_at,
      j.started_at, null::timestamptz as finished_at, j.cancel_requested_at, j.worker_id, null::text as worker, j.actor,
      j.request_id, j.traceparent, j.labels, j.attempts, null::text as span_id, null::bytea as error,
      case when p_request then j.request end as request, null::bytea as response
    from asked a
    cross join lateral (
      select * from rowcall.job j where j.tenant = a.tenant and j.job_id = a.job_id limit 1
    ) j
    union all
    select
      h.tenant, h.job_id, h.state, h.lane, h.queue_id, h.method_id, h.policy_id, h.attempt, h.created_at, h.run_at,
      h.started_at, h.finished_at, h.cancel_requested_at, h.worker_id, h.worker, h.actor,
      h.request_id, h.traceparent, h.labels, h.attempts, h.span_id, h.error,
      case when p_request then h.request end, case when p_response then h.response end
    from asked a
    cross join lateral (
      select *
      from rowcall.job_history h
      where h.tenant = a.tenant and h.job_id = a.job_id and h.finished_on between v_since and v_until
      limit 1
    ) h
  )
  select
    f.tenant, f.job_id, f.state, f.lane, q.name, m.name, f.attempt, p.max_attempts, f.created_at, f.run_at,
    f.started_at, f.finished_at, f.cancel_requested_at, coalesce(f.worker, w.name), f.actor, f.request_id,
    f.traceparent, f.labels, f.attempts, f.span_id, f.error, f.request, f.response
  from found f
  join rowcall.queue q on q.queue_id = f.queue_id
  join rowcall.method m on m.method_id = f.method_id
  join rowcall.policy p on p.policy_id = f.policy_id
  left join rowcall.worker w on w.worker_id = f.worker_id;
end
$$;

-- The finished ones of the jobs asked for, with their answers: what waiting calls
-- poll. Only history is looked at: a live job has no answer.
create function rowcall.read_outcomes(p_tenant text[], p_job_id uuid[])
returns table (
  tenant text, job_id uuid, state smallint, attempt integer, response bytea, error bytea, traceparent text
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_since date := rowcall.earliest_day(p_job_id);
  v_until date := (statement_timestamp() at time zone 'UTC')::date + 1;
begin
  return query
  select h.tenant, h.job_id, h.state, h.attempt, h.response, h.error, h.traceparent
  from unnest(p_tenant, p_job_id) as a (tenant, job_id)
  -- Limited, so that it stays a lookup by key, however small history was when the
  -- plan was made.
  cross join lateral (
    select *
    from rowcall.job_history h
    where h.tenant = a.tenant and h.job_id = a.job_id and h.finished_on between v_since and v_until
    limit 1
  ) h;
end
$$;

-- A page of a tenant's jobs, newest first, below p_before. p_done: only finished
-- ones (true), only live ones (false), all (null). p_method: only of that method.
create function rowcall.list_jobs(
  p_tenant text, p_before uuid, p_done boolean, p_method text, p_limit integer, p_request boolean, p_response boolean
)
returns setof rowcall.job_row
language sql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  with chosen as materialized (
    (
      select j.job_id
      from rowcall.job j
      where j.tenant = p_tenant
        and j.job_id < coalesce(p_before, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        and p_done is not true
        and (p_method is null or j.method_id = (select m.method_id from rowcall.method m where m.name = p_method))
      order by j.job_id desc
      limit p_limit
    )
    union all
    (
      select h.job_id
      from rowcall.job_history h
      where h.tenant = p_tenant
        and h.job_id < coalesce(p_before, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        and p_done is not false
        and (p_method is null or h.method_id = (select m.method_id from rowcall.method m where m.name = p_method))
      order by h.job_id desc
      limit p_limit
    )
  ),
  page as materialized (
    select c.job_id from chosen c order by c.job_id desc limit p_limit
  )
  select r.*
  from rowcall.read_jobs(
    array(select p_tenant from page), array(select p.job_id from page p order by p.job_id desc), p_request, p_response
  ) r
  order by r.job_id desc
$$;

-- Cancels a job that waits (it moves to history); marks one that runs. Answers
-- with the state after it and who waits; no row: no such live job.
create function rowcall.cancel_job(p_tenant text, p_job_id uuid, p_error bytea, p_only_unstarted boolean)
returns table (state smallint, waiter_id uuid)
language sql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  with target as materialized (
    select j.tenant, j.job_id, j.state, j.started_at is null as unstarted
    from rowcall.job j
    where j.tenant = p_tenant and j.job_id = p_job_id
    for update
  ),
  gone as (
    delete from rowcall.job j
    using target t
    where j.tenant = t.tenant and j.job_id = t.job_id and t.state in (1, 2)
      and (t.unstarted or not p_only_unstarted)
    returning j.*
  ),
  moved as (
    insert into rowcall.job_history (
      tenant, job_id, state, lane, queue_id, order_key, method_id, policy_id, lease, attempt, lost, payload_key_id,
      retention, finished_on, finished_at, run_at, created_at, ready_at, started_at, cancel_requested_at,
      request, request_id, actor, fairness_key, traceparent, tracestate, on_done, labels,
      attempts, error, error_code, error_message
    )
    select
      g.tenant, g.job_id, 6, g.lane, g.queue_id, g.order_key, g.method_id, g.policy_id, g.lease, g.attempt, g.lost,
      g.payload_key_id, p.retention, t.day, t.now, g.run_at, g.created_at, g.ready_at, g.started_at,
      t.now, g.request, g.request_id, g.actor, g.fairness_key, g.traceparent, g.tracestate,
      g.on_done, g.labels, g.attempts, p_error, 1, 'The job was cancelled.'
    from gone g
    cross join rowcall.finishing_time() t
    join rowcall.policy p on p.policy_id = g.policy_id
  ),
  marked as (
    update rowcall.job j
    set cancel_requested_at = coalesce(j.cancel_requested_at, clock_timestamp())
    from target t
    where j.tenant = t.tenant and j.job_id = t.job_id and t.state = 3 and not p_only_unstarted
    returning j.waiter_id
  )
  select 6::smallint, g.waiter_id from gone g
  union all
  select 3::smallint, m.waiter_id from marked m
$$;

-- Erases a finished job: its row, with request, answer and attempts. The key
-- stays until it expires, so that a late repeat is refused rather than run again.
create function rowcall.delete_job(p_tenant text, p_job_id uuid)
returns boolean
language sql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  with gone as (
    delete from rowcall.job_history h
    where h.tenant = p_tenant
      and h.job_id = p_job_id
      and h.finished_on >= rowcall.earliest_day(array[p_job_id])
    returning 1
  )
  select exists (select from gone)
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
