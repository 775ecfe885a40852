-- The end of an attempt: settled by its worker, or handed back.
set local role rowcall_owner;

-- The key that puts a job next in its lane: just above the frontier. Only functions
-- with a search_path of their own call it.
create function rowcall.next_key(p_queue_id integer, p_lane smallint)
returns bigint
language sql volatile
as $$
  select coalesce(pg_sequence_last_value(l.frontier), 0) + 1
  from rowcall.queue_lane l
  where l.queue_id = p_queue_id and l.lane = p_lane
$$;

-- Settles a batch of attempts. A job that is finished moves to history in the
-- same statement; one to be tried again stays, with a time to wait for. The lease
-- number must be the row's: a zombie's settle changes nothing, and its place (from
-- 1) is not among the answers.
-- p_state: 4 SUCCEEDED, 5 FAILED, 6 CANCELLED finish; 1 SCHEDULED tries again
-- after p_delay (using the attempt up), unless cancellation was asked for.
create function rowcall.settle_jobs(
  p_tenant text[],
  p_job_id uuid[],
  p_lease bigint[],
  p_state smallint[],
  p_delay interval[],
  p_response bytea[],
  p_error bytea[],
  p_error_code integer[],
  p_error_message text[],
  p_span_id text[],
  p_cancelled_error bytea
)
returns table (place bigint, state smallint, waiter_id uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- As in claim_jobs: the table may have been empty when the plan was made, and two
-- spellings keep it to lookups by primary key. tenant = any (array[...]) cannot be
-- turned round into a walk over the table for each row of the batch; state > 2
-- (RUNNING) offers no partial index to be walked instead.
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with input as materialized (
    select *
    from unnest(
      p_tenant, p_job_id, p_lease, p_state, p_delay, p_response, p_error, p_error_code, p_error_message, p_span_id
    ) with ordinality as i (
      tenant, job_id, lease, state, delay, response, error, error_code, error_message, span_id, place
    )
  ),
  -- Whether a job that would be tried again was cancelled meanwhile must not change
  -- between the looking and the writing.
  retried as materialized (
    select i.*, j.cancelled
    from input i
    cross join lateral (
      select j.cancel_requested_at is not null as cancelled
      from rowcall.job j
      where j.tenant = i.tenant and j.job_id = i.job_id and j.lease = i.lease and j.state > 2
      for update
    ) j
    where i.state = 1
  ),
  ending as (
    select i.place, i.tenant, i.job_id, i.lease, i.state, i.response, i.error, i.error_code, i.error_message, i.span_id
    from input i
    where i.state <> 1
    union all
    select r.place, r.tenant, r.job_id, r.lease, 6::smallint, null, p_cancelled_error, 1, 'The job was cancelled.', r.span_id
    from retried r
    where r.cancelled
  ),
  gone as (
    delete from rowcall.job j
    using ending e
    where j.tenant = any (array[e.tenant]) and j.job_id = e.job_id and j.lease = e.lease and j.state > 2
    returning j.*, e.place, e.state as final_state, e.response, e.error, e.error_code, e.error_message, e.span_id
  ),
  moved as (
    insert into rowcall.job_history (
      tenant, job_id, state, lane, queue_id, order_key, method_id, policy_id, lease, attempt, lost, payload_key_id,
      retention, finished_on, finished_at, run_at, created_at, ready_at, started_at, cancel_requested_at,
      worker_id, worker, request, request_id, actor, fairness_key, traceparent, tracestate, on_done, labels,
      attempts, span_id, response, error, error_code, error_message
    )
    select
      g.tenant, g.job_id, g.final_state, g.lane, g.queue_id, g.order_key, g.method_id, g.policy_id, g.lease, g.attempt,
      g.lost, g.payload_key_id, p.retention, t.day, t.now, g.run_at, g.created_at, g.ready_at,
      g.started_at, g.cancel_requested_at, g.worker_id, w.name, g.request, g.request_id, g.actor, g.fairness_key,
      g.traceparent, g.tracestate, g.on_done, g.labels, g.attempts, g.span_id, g.response,
      g.error, g.error_code, g.error_message
    from gone g
    cross join rowcall.finishing_time() t
    join rowcall.policy p on p.policy_id = g.policy_id
    left join rowcall.worker w on w.worker_id = g.worker_id
  ),
  again as (
    update rowcall.job j
    set
      state = 1,
      run_at = clock_timestamp() + coalesce(r.delay, interval '0'),
      ready_at = null,
      worker_id = null,
      attempt_deadline = null,
      attempts = coalesce(j.attempts, '[]'::jsonb) || jsonb_strip_nulls(jsonb_build_object(
        'attempt', j.attempt, 'worker', (select w.name from rowcall.worker w where w.worker_id = j.worker_id),
        'started', j.started_at, 'ended', clock_timestamp(), 'outcome', 2, 'code', r.error_code,
        'message', r.error_message, 'span', r.span_id, 'error', encode(r.error, 'base64')
      ))
    from retried r
    where j.tenant = any (array[r.tenant]) and j.job_id = r.job_id and j.lease = r.lease and not r.cancelled
    returning r.place, j.waiter_id
  )
  select g.place, g.final_state, g.waiter_id from gone g
  union all
  select a.place, 1::smallint, a.waiter_id from again a;
end
$$;

-- Hands running jobs back without using an attempt up: a drain, not a failure. A job
-- whose cancellation was asked for meanwhile is cancelled. Answers as settle_jobs does.
create function rowcall.release_jobs(
  p_tenant text[], p_job_id uuid[], p_lease bigint[], p_cancelled_error bytea
)
returns table (place bigint, state smallint, queue_id integer, waiter_id uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- See settle_jobs.
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with owned as materialized (
    select i.*, j.cancel_requested_at is not null as cancelled
    from unnest(p_tenant, p_job_id, p_lease) with ordinality as i (tenant, job_id, lease, place)
    cross join lateral (
      select j.cancel_requested_at
      from rowcall.job j
      where j.tenant = i.tenant and j.job_id = i.job_id and j.lease = i.lease and j.state > 2
      for update
    ) j
  ),
  gone as (
    delete from rowcall.job j
    using owned o
    where j.tenant = any (array[o.tenant]) and j.job_id = o.job_id and j.lease = o.lease and o.cancelled
    returning j.*, o.place
  ),
  moved as (
    insert into rowcall.job_history (
      tenant, job_id, state, lane, queue_id, order_key, method_id, policy_id, lease, attempt, lost, payload_key_id,
      retention, finished_on, finished_at, run_at, created_at, ready_at, started_at, cancel_requested_at,
      worker_id, worker, request, request_id, actor, fairness_key, traceparent, tracestate, on_done, labels,
      attempts, error, error_code, error_message
    )
    select
      g.tenant, g.job_id, 6, g.lane, g.queue_id, g.order_key, g.method_id, g.policy_id, g.lease, g.attempt,
      g.lost, g.payload_key_id, p.retention, t.day, t.now, g.run_at, g.created_at, g.ready_at,
      g.started_at, g.cancel_requested_at, g.worker_id, w.name, g.request, g.request_id, g.actor, g.fairness_key,
      g.traceparent, g.tracestate, g.on_done, g.labels, g.attempts, p_cancelled_error, 1, 'The job was cancelled.'
    from gone g
    cross join rowcall.finishing_time() t
    join rowcall.policy p on p.policy_id = g.policy_id
    left join rowcall.worker w on w.worker_id = g.worker_id
  ),
  back as (
    update rowcall.job j
    set
      state = 2,
      order_key = rowcall.next_key(j.queue_id, j.lane),
      ready_at = clock_timestamp(),
      lease = j.lease + 1,
      attempt = j.attempt - 1,
      worker_id = null,
      attempt_deadline = null,
      attempts = coalesce(j.attempts, '[]'::jsonb) || jsonb_strip_nulls(jsonb_build_object(
        'attempt', j.attempt, 'worker', (select w.name from rowcall.worker w where w.worker_id = j.worker_id),
        'started', j.started_at, 'ended', clock_timestamp(), 'outcome', 6
      ))
    from owned o
    where j.tenant = any (array[o.tenant]) and j.job_id = o.job_id and j.lease = o.lease and not o.cancelled
    returning o.place, j.queue_id, j.waiter_id
  )
  select g.place, 6::smallint, g.queue_id, g.waiter_id from gone g
  union all
  select b.place, 2::smallint, b.queue_id, b.waiter_id from back b;
end
$$;
