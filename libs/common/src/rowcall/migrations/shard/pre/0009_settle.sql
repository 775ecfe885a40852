-- The end of an attempt: settled by its worker, or handed back.
set local role rowcall_owner;

-- How an attempt ended, as settle_jobs takes it. state: 11 SUCCEEDED, 12 FAILED,
-- 13 CANCELLED finish; 1 SCHEDULED runs again after the delay, unless cancellation was asked
-- for: another attempt, or, snoozed, the same one. location: where its handler raised.
create type rowcall.settlement as (
  tenant text, job_id uuid, lease bigint, state smallint, delay interval, snoozed boolean, response bytea,
  error bytea, error_code integer, error_message text, span_id text, location text
);

-- Settles a batch of attempts. A job that is finished moves to history in the
-- same statement; one to be tried again stays, with a time to wait for. The lease
-- number must be the row's: a zombie's settle changes nothing, and its place (from
-- 1) is not among the answers.
-- An attempt that could start only after the job's deadline is none: the job fails
-- with this one's error.
create function rowcall.settle_jobs(p_settlement rowcall.settlement[], p_cancelled_error bytea)
returns table (place bigint, state smallint, waiter_id uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- As in claim_jobs: the table may have been empty when the plan was made, and two
-- spellings keep it to lookups by primary key. tenant = any (array[...]) cannot be
-- turned round into a walk over the table for each row of the batch; is_running
-- offers no partial index to be walked instead.
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with input as materialized (
    select i.*, i.ordinality as place from unnest(p_settlement) with ordinality as i
  ),
  -- Whether a job that would be tried again was cancelled meanwhile must not change
  -- between the looking and the writing.
  retried as materialized (
    select i.*, j.cancelled, j.too_late and i.error is not null as too_late, w.name as worker, w.version
    from input i
    cross join lateral (
      select
        j.worker_id,
        j.cancel_requested_at is not null as cancelled,
        coalesce(clock_timestamp() + i.delay >= j.deadline, false) as too_late
      from rowcall.job j
      where j.tenant = i.tenant and j.job_id = i.job_id and j.lease = i.lease and rowcall.is_running(j.state)
      for update
    ) j
    left join rowcall.worker w on w.worker_id = j.worker_id
    where i.state = 1
  ),
  -- Kept as rows: where a job was changed since the statement began (its progress, a mark
  -- for cancelling), Postgres asks again with the row it has at hand. Of a union that is
  -- part of the join it has none, runs that from where it was, and passes the job over.
  ending as materialized (
    select i.place, i.tenant, i.job_id, i.lease, i.state, i.response, i.error, i.error_code, i.error_message, i.span_id,
      i.location
    from input i
    where i.state <> 1
    union all
    select r.place, r.tenant, r.job_id, r.lease, 13::smallint, null, p_cancelled_error, 1, 'The job was cancelled.', r.span_id,
      null
    from retried r
    where r.cancelled
    union all
    select r.place, r.tenant, r.job_id, r.lease, 12::smallint, null, r.error, r.error_code, r.error_message, r.span_id,
      r.location
    from retried r
    where r.too_late and not r.cancelled
  ),
  gone as (
    delete from rowcall.job j
    using ending e
    where j.tenant = any (array[e.tenant]) and j.job_id = e.job_id and j.lease = e.lease and rowcall.is_running(j.state)
    returning
      j.*, e.place, e.state as final_state, e.response, e.error, e.error_code, e.error_message, e.span_id, e.location
  ),
  -- As rowcall.ended() has it, column by column: to take them out of a composite value costs a tenth
  -- of the whole settle. By name on both sides, and not as row(...)::rowcall.job: a settle that waits
  -- while a column is added goes on with the text that it began with (docs/adr/0025).
  moved as (
    insert into rowcall.job_history (
      tenant, job_id, state, lane, priority, trace_flags, queue_id, order_key, method_id, policy_id, lease,
      parent_span_id, trace_id, attempt, lost, lost_alone, replays, payload_key_id, limit_id, retention, finished_on,
      finished_at, deadline, run_at, created_at, ready_at, started_at, cancel_requested_at, worker_id, worker,
      worker_version, request, request_id, actor, fairness_key, limit_key, tracestate, parent_job_id, group_id,
      on_done, labels, progress, progress_message, progress_at, attempts, span_id, response, error, error_code,
      error_message, location
    )
    select
      g.tenant, g.job_id, g.final_state, g.lane, g.priority, g.trace_flags, g.queue_id, g.order_key, g.method_id,
      g.policy_id, g.lease, g.parent_span_id, g.trace_id, g.attempt, g.lost, g.lost_alone, g.replays,
      g.payload_key_id, g.limit_id, p.retention, t.day, t.now, g.deadline, g.run_at, g.created_at, g.ready_at,
      g.started_at, g.cancel_requested_at, g.worker_id, w.name, case when g.final_state <> 11 then w.version end,
      g.request, g.request_id, g.actor, g.fairness_key, g.limit_key, g.tracestate, g.parent_job_id, g.group_id,
      g.on_done, g.labels, g.progress, g.progress_message, g.progress_at, g.attempts, g.span_id, g.response, g.error,
      g.error_code, g.error_message, g.location
    from gone g
    join rowcall.policy p on p.policy_id = g.policy_id
    cross join rowcall.finishing_time() t
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
      held = 0,
      attempt = case when r.snoozed then j.attempt - 1 else j.attempt end,
      attempts = rowcall.with_attempt(
        j, r.worker, r.version, case when r.snoozed then 7 else 2 end, r.error_code, r.error_message, r.location,
        r.span_id, r.error
      )
    from retried r
    where j.tenant = any (array[r.tenant]) and j.job_id = r.job_id and j.lease = r.lease
      and not r.cancelled and not r.too_late
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
    select i.*, j.cancel_requested_at is not null as cancelled, w.name as worker, w.version
    from unnest(p_tenant, p_job_id, p_lease) with ordinality as i (tenant, job_id, lease, place)
    cross join lateral (
      select j.cancel_requested_at, j.worker_id
      from rowcall.job j
      where j.tenant = i.tenant and j.job_id = i.job_id and j.lease = i.lease and rowcall.is_running(j.state)
      for update
    ) j
    left join rowcall.worker w on w.worker_id = j.worker_id
  ),
  gone as (
    delete from rowcall.job j
    using owned o
    where j.tenant = any (array[o.tenant]) and j.job_id = o.job_id and j.lease = o.lease and o.cancelled
    returning j as live, o.place, j.queue_id, j.waiter_id, o.worker, o.version
  ),
  moved as (
    insert into rowcall.job_history
    select h.*
    from gone g
    cross join rowcall.finishing_time() t
    cross join lateral rowcall.ended(
      g.live, 13::smallint, g.worker, g.version, null, p_cancelled_error, 1, 'The job was cancelled.', null, null,
      t.now, t.day
    ) h
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
      attempts = rowcall.with_attempt(j, o.worker, o.version, 6, null, null, null, null, null)
    from owned o
    where j.tenant = any (array[o.tenant]) and j.job_id = o.job_id and j.lease = o.lease and not o.cancelled
    returning o.place, j.queue_id, j.waiter_id
  )
  select g.place, 13::smallint, g.queue_id, g.waiter_id from gone g
  union all
  select b.place, 2::smallint, b.queue_id, b.waiter_id from back b;
end
$$;

-- Keeps what handlers say of how far they are; under their lease number only. Answers
-- with the places (from 1) that were kept. A job that another one has locked is being
-- ended or taken back: it is not waited for, nor does that ever wait for this and
-- this for that.
create function rowcall.report_progress(
  p_tenant text[], p_job_id uuid[], p_lease bigint[], p_progress real[], p_message text[]
)
returns table (place bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp
-- See settle_jobs.
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
  return query
  with input as materialized (
    select *
    from unnest(p_tenant, p_job_id, p_lease, p_progress, p_message) with ordinality as i (
      tenant, job_id, lease, progress, message, place
    )
  ),
  owned as materialized (
    select i.*
    from input i
    cross join lateral (
      select
      from rowcall.job j
      where j.tenant = i.tenant and j.job_id = i.job_id and j.lease = i.lease and rowcall.is_running(j.state)
      for no key update skip locked
    ) j
  )
  update rowcall.job j
  set progress = i.progress, progress_message = i.message, progress_at = clock_timestamp()
  from owned i
  where j.tenant = any (array[i.tenant]) and j.job_id = i.job_id and j.lease = i.lease and rowcall.is_running(j.state)
  returning i.place;
end
$$;

-- What a call of a model or provider cost, as book_spend takes it: rowcall.queue.spend.Spend, under tenant, job
-- and lease number.
create type rowcall.spent as (
  tenant text, job_id uuid, lease bigint, call integer, method_id integer, kind smallint, trace_id uuid,
  input_tokens bigint, output_tokens bigint, cost numeric, latency interval, provider text, model text,
  currency text, verdict text
);

-- The slot of this transaction's sums: one that nobody else has until it ends, or one that is waited for where all are taken. Whoever
-- waits holds jobs, which nobody wants who has a slot.
create function rowcall.spend_slot()
returns smallint
language plpgsql volatile
as $$
declare
  c_slots constant integer := hashtext('rowcall.spend');
  v_own smallint := pg_backend_pid() & 15;
begin
  for v_step in 0..15 loop
    if pg_try_advisory_xact_lock(c_slots, (v_own + v_step) & 15) then
      return (v_own + v_step) & 15;
    end if;
  end loop;
  perform pg_advisory_xact_lock(c_slots, v_own);
  return v_own;
end
$$;

-- Books what was spent, in the transaction that tells of it; how much of it was new. What is told again is counted
-- once. Whether the lease is still the worker's is not asked: the money is gone in any case. What is told late of a
-- tenant that was erased is not kept. In one order, entries
-- first and then their sums, behind whatever jobs the transaction writes: no deadlocks between them.
create function rowcall.book_spend(p_spent rowcall.spent[])
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_slot smallint := rowcall.spend_slot();
  v_new bigint;
begin
  with entered as (
    insert into rowcall.spend_entry (
      tenant, job_id, lease, call, method_id, kind, trace_id, input_tokens, output_tokens, cost, latency, provider,
      model, currency, verdict
    )
    select
      s.tenant, s.job_id, s.lease, s.call, s.method_id, s.kind, s.trace_id, s.input_tokens, s.output_tokens, s.cost,
      s.latency, s.provider, s.model, s.currency, s.verdict
    from unnest(p_spent) s
    where not exists (select from rowcall.tenant_route r where r.tenant = s.tenant and r.state = 4)
    order by s.tenant, s.job_id, s.lease, s.call
    on conflict (tenant, job_id, lease, call) do nothing
    returning
      tenant, (spent_at at time zone 'UTC')::date as day, method_id, kind, provider, model,
      coalesce(currency, '') as currency, input_tokens, output_tokens, cost
  ),
  summed as materialized (
    select
      e.*, b.place, b.number as last, b.calls as calls_before, b.input_tokens as input_before, b.output_tokens as output_before,
      b.cost as cost_before
    from (
      select
        n.tenant, n.day, n.method_id, n.kind, n.provider, n.model, n.currency, count(*) as calls,
        coalesce(sum(n.input_tokens), 0) as input_tokens, coalesce(sum(n.output_tokens), 0) as output_tokens,
        coalesce(sum(n.cost), 0) as cost
      from entered n
      group by n.tenant, n.day, n.method_id, n.kind, n.provider, n.model, n.currency
    ) e
    left join lateral (
      select s.ctid as place, s.number, s.calls, s.input_tokens, s.output_tokens, s.cost
      from rowcall.spend s
      where s.tenant = e.tenant
        and s.day = e.day
        and s.method_id = e.method_id
        and s.kind = e.kind
        and s.provider = e.provider
        and s.model = e.model
        and s.currency = e.currency
        and s.slot = v_slot
      order by s.number
      limit 1
    ) b on true
  ),
  gone as (
    -- By where it is: the index of days would find it behind what is dead.
    delete from rowcall.spend s using summed d where s.ctid = d.place
  ),
  booked as (
    insert into rowcall.spend as b (
      tenant, day, method_id, kind, provider, model, currency, slot, number, calls, input_tokens, output_tokens, cost
    )
    select
      d.tenant, d.day, d.method_id, d.kind, d.provider, d.model, d.currency, v_slot, coalesce(d.last, 0) - 1,
      d.calls + coalesce(d.calls_before, 0), d.input_tokens + coalesce(d.input_before, 0),
      d.output_tokens + coalesce(d.output_before, 0), d.cost + coalesce(d.cost_before, 0)
    from summed d
    -- Of a transaction whose snapshot is of its beginning, which fails here as such transactions do, and comes again.
    on conflict (tenant, day, method_id, kind, provider, model, currency, slot, number) do update
    set
      calls = b.calls + excluded.calls,
      input_tokens = b.input_tokens + excluded.input_tokens,
      output_tokens = b.output_tokens + excluded.output_tokens,
      cost = b.cost + excluded.cost
  )
  select count(*) into v_new from entered;
  return v_new;
end
$$;

-- settle_jobs, and what was spent. A function of its own, so that settling costs no more where nothing was.
create function rowcall.settle_and_book(
  p_settlement rowcall.settlement[], p_cancelled_error bytea, p_spent rowcall.spent[]
)
returns table (place bigint, state smallint, waiter_id uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return query select s.* from rowcall.settle_jobs(p_settlement, p_cancelled_error) s;
  perform rowcall.book_spend(p_spent);
end
$$;

-- report_progress, and what was spent.
create function rowcall.report_and_book(
  p_tenant text[], p_job_id uuid[], p_lease bigint[], p_progress real[], p_message text[], p_spent rowcall.spent[]
)
returns table (place bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return query select r.place from rowcall.report_progress(p_tenant, p_job_id, p_lease, p_progress, p_message) r;
  perform rowcall.book_spend(p_spent);
end
$$;
