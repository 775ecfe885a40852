-- What callers and operators do to jobs; capability functions that all begin with
-- the tenant.
set local role rowcall_owner;

-- Cancels a job that waits (it moves to history); marks one that runs. Answers
-- with the state after it, who waits, and which worker runs it; no row: no such live job.
create function rowcall.cancel_job(p_tenant text, p_job_id uuid, p_error bytea, p_only_unstarted boolean)
returns table (state smallint, waiter_id uuid, worker_id uuid)
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
    where j.tenant = t.tenant and j.job_id = t.job_id and t.state in (1, 2, 4)
      and (t.unstarted or not p_only_unstarted)
    returning j as live, j.waiter_id
  ),
  moved as (
    insert into rowcall.job_history
    select h.*
    from gone g
    cross join rowcall.finishing_time() t
    cross join lateral rowcall.ended(
      g.live, 13::smallint, null, null, null, p_error, 1, 'The job was cancelled.', null, null, t.now, t.day
    ) h
  ),
  marked as (
    update rowcall.job j
    set cancel_requested_at = coalesce(j.cancel_requested_at, clock_timestamp())
    from target t
    where j.tenant = t.tenant and j.job_id = t.job_id and t.state = 3 and not p_only_unstarted
    returning j.waiter_id, j.worker_id
  )
  select 13::smallint, g.waiter_id, null::uuid from gone g
  union all
  select 3::smallint, m.waiter_id, m.worker_id from marked m
$$;

-- A call no longer waits for its job. Answers as cancel_job does, which p_cancel asks for
-- if the job has not been started and no other call with its key is left: there may be
-- some at any gateway, and each was counted as it was submitted. A call that was lost with
-- its gateway is counted for ever; its job is then kept.
create function rowcall.leave_job(p_tenant text, p_job_id uuid, p_error bytea, p_cancel boolean)
returns table (state smallint, waiter_id uuid, worker_id uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_method_id integer;
  v_request_id text;
  v_callers integer;
begin
  select j.method_id, j.request_id into v_method_id, v_request_id
  from rowcall.job j
  where j.job_id = p_job_id and j.tenant = p_tenant;
  if not found then
    return;
  end if;
  if v_request_id is not null then
    update rowcall.job_key k
    set callers = k.callers - 1
    where k.tenant = p_tenant and k.method_id = v_method_id and k.request_id = v_request_id and k.job_id = p_job_id
    returning k.callers into v_callers;
    -- Without its key nobody can say who else waits.
    if v_callers is null or v_callers > 0 then
      return;
    end if;
  end if;
  if p_cancel then
    return query
    select c.state, c.waiter_id, c.worker_id from rowcall.cancel_job(p_tenant, p_job_id, p_error, true) c;
  end if;
end
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

-- Replays failed jobs: each is READY again under its own name, with its attempts so far
-- and as many new ones as its policy has. Answers with those that were.
create function rowcall.replay_jobs(p_tenant text, p_job_id uuid[])
returns table (job_id uuid, queue_id integer)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with failed as (
    delete from rowcall.job_history h
    where h.tenant = p_tenant
      and h.job_id = any (p_job_id)
      and h.state = 12
      and h.finished_on >= rowcall.earliest_day(p_job_id)
    returning h.*
  ),
  placed as materialized (
    select f.*, row_number() over (order by f.job_id) as place from failed f
  ),
  turn as materialized (
    select rowcall.again_keys(
      array_agg(p.tenant order by p.place), array_agg(p.queue_id order by p.place),
      array_agg(p.priority order by p.place)
    ) as order_keys
    from placed p
    having count(*) > 0
  ),
  back as (
    insert into rowcall.job (
      tenant, job_id, state, lane, priority, queue_id, order_key, method_id, policy_id, lease, attempt, replays,
      payload_key_id, limit_id, limit_key, deadline, run_at, created_at, ready_at, request, request_id, actor,
      fairness_key, trace_id, parent_span_id, trace_flags, tracestate, parent_job_id, group_id, on_done, labels, attempts
    )
    select
      f.tenant, f.job_id, 2, f.priority, f.priority, f.queue_id, t.order_keys[f.place], f.method_id, f.policy_id,
      f.lease + 1, 0, f.replays + 1, f.payload_key_id, f.limit_id, f.limit_key, clock_timestamp() + p.deadline,
      clock_timestamp(), f.created_at, clock_timestamp(), f.request, f.request_id, f.actor, f.fairness_key,
      f.trace_id, f.parent_span_id, f.trace_flags, f.tracestate, f.parent_job_id, f.group_id, f.on_done, f.labels,
      -- One whose deadline was over before it ever ran has no attempt to add.
      case when f.attempt = 0 then f.attempts else coalesce(f.attempts, '[]'::jsonb) || jsonb_strip_nulls(jsonb_build_object(
        'attempt', f.attempt, 'lease', f.lease, 'worker', f.worker, 'version', f.worker_version,
        'started', f.started_at, 'ended', f.finished_at, 'outcome', 3, 'code', f.error_code,
        'message', f.error_message, 'location', f.location, 'span', f.span_id, 'error', encode(f.error, 'base64')
      )) end
    from placed f
    cross join turn t
    join rowcall.policy p on p.policy_id = f.policy_id
    returning rowcall.job.job_id, rowcall.job.queue_id
  )
  select b.job_id, b.queue_id from back b;
end
$$;

-- Marks failed jobs as handled. Answers with those that were.
create function rowcall.resolve_jobs(p_tenant text, p_job_id uuid[], p_by text, p_note text)
returns table (job_id uuid)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  update rowcall.job_history h
  set state = 14, resolved_at = clock_timestamp(), resolved_by = p_by, resolve_note = p_note
  where h.tenant = p_tenant
    and h.job_id = any (p_job_id)
    and h.state = 12
    and h.finished_on >= rowcall.earliest_day(p_job_id)
  returning h.job_id;
end
$$;
