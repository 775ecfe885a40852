-- Keeping house: due jobs are made ready, jobs of dead workers taken back.
set local role rowcall_owner;

-- Makes due jobs ready, next in their lanes; answers with the queues that got some.
create function rowcall.promote_jobs(p_limit integer)
returns table (queue_id integer, promoted bigint)
language sql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  with due as materialized (
    select j.tenant, j.job_id
    from rowcall.job j
    where j.state = 1 and j.run_at <= (select clock_timestamp())
    order by j.run_at
    limit p_limit
    for update skip locked
  ),
  ready as (
    update rowcall.job j
    set state = 2, ready_at = clock_timestamp(), order_key = rowcall.next_key(j.queue_id, j.lane)
    from due d
    where j.tenant = any (array[d.tenant]) and j.job_id = d.job_id
    returning j.queue_id
  )
  select r.queue_id, count(*) from ready r group by r.queue_id
$$;

-- Marks workers dead whose lease is over: first of all, so that they can neither
-- renew nor claim while their jobs are taken back. Forgets those that are dead for
-- a day and hold nothing any more.
create function rowcall.bury_workers()
returns table (worker_id uuid, name text)
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with forgotten as (
    delete from rowcall.worker w
    where w.dead_at < clock_timestamp() - interval '1 day'
      and not exists (select from rowcall.job j where j.worker_id = w.worker_id and j.state = 3)
  )
  update rowcall.worker w
  set dead_at = clock_timestamp()
  where w.worker_id in (
      select d.worker_id
      from rowcall.worker d
      where d.dead_at is null and d.lease_until < clock_timestamp()
      -- Locked, and so asked again of the row as it is now: a renewal may have come
      -- first. One that is under way is not waited for.
      for update skip locked
    )
  returning w.worker_id, w.name
$$;

-- Takes back jobs of dead workers, p_limit at most, those locked by a zombie's
-- open transaction left for the next round. The lease number rises, so that the
-- zombie's settle comes too late. A job that was lost p_lost_limit times fails.
create function rowcall.rescue_jobs(
  p_limit integer, p_lost_limit integer, p_lost_error bytea, p_cancelled_error bytea
)
returns table (tenant text, job_id uuid, queue_id integer, state smallint, waiter_id uuid, worker text)
language sql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  with orphan as materialized (
    select
      j.tenant, j.job_id, j.lease, w.name as worker,
      case
        when j.cancel_requested_at is not null then 6
        when j.lost + 1 >= p_lost_limit then 5
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
      lost = j.lost + 1,
      worker_id = null,
      attempt_deadline = null,
      attempts = coalesce(j.attempts, '[]'::jsonb) || jsonb_build_object(
        'attempt', j.attempt, 'worker', o.worker, 'started', j.started_at, 'ended', clock_timestamp(), 'outcome', 5
      )
    from orphan o
    where j.tenant = any (array[o.tenant]) and j.job_id = o.job_id and j.lease = o.lease and o.new_state = 2
    returning j.tenant, j.job_id, j.queue_id, 2::smallint as state, j.waiter_id, o.worker
  ),
  gone as (
    delete from rowcall.job j
    using orphan o
    where j.tenant = any (array[o.tenant]) and j.job_id = o.job_id and j.lease = o.lease and o.new_state <> 2
    returning j.*, o.new_state, o.worker
  ),
  moved as (
    insert into rowcall.job_history (
      tenant, job_id, state, lane, queue_id, order_key, method_id, policy_id, lease, attempt, lost, payload_key_id,
      retention, finished_on, finished_at, run_at, created_at, ready_at, started_at, cancel_requested_at,
      worker_id, worker, request, request_id, actor, fairness_key, traceparent, tracestate, on_done, labels,
      attempts, error, error_code, error_message
    )
    select
      g.tenant, g.job_id, g.new_state, g.lane, g.queue_id, g.order_key, g.method_id, g.policy_id, g.lease + 1, g.attempt,
      g.lost + 1, g.payload_key_id, p.retention, t.day, t.now, g.run_at, g.created_at, g.ready_at,
      g.started_at, g.cancel_requested_at, g.worker_id, g.worker, g.request, g.request_id, g.actor, g.fairness_key,
      g.traceparent, g.tracestate, g.on_done, g.labels, g.attempts,
      case when g.new_state = 6 then p_cancelled_error else p_lost_error end,
      case when g.new_state = 6 then 1 else 10 end,
      case when g.new_state = 6 then 'The job was cancelled.' else 'Workers died each time they ran the job.' end
    from gone g
    cross join rowcall.finishing_time() t
    join rowcall.policy p on p.policy_id = g.policy_id
  )
  select r.* from ready r
  union all
  select g.tenant, g.job_id, g.queue_id, g.new_state, g.waiter_id, g.worker from gone g
$$;
