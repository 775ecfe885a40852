-- Capability functions of the engine: submit, claim, settle, release, promote,
-- rescue. A function is one statement where it can be: one round trip, one plan.
set local role rowcall_owner;

-- The time that a UUIDv7 carries. RFC 9562, section 5.7: 48 bits of milliseconds.
create function rowcall.uuid_time(p_id uuid)
returns timestamptz
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
  select to_timestamp(
    (
      ('x' || substr(replace(p_id::text, '-', ''), 1, 12))::bit(48)::bigint
    ) / 1000.0
  )
$$;

-- Submits a batch, of any tenants and methods: every element of the arrays is one
-- call, and the answer has one row for each, by its place (from 1).
-- outcome: 1 CREATED; 2 JOINED the job that has the key; 3 KEY_REUSED with another
-- fingerprint; 4 WRONG_SHARD, the tenant is not (or no longer) here.
-- A batch must not hold one key twice, and keyed calls must come sorted by key
-- (else two gateways deadlock); the caller sees to both. p_last_key and p_step
-- give start-time fair queueing: the job's order key is
-- greatest(the lane's frontier, the tenant's last key) + step.
create function rowcall.submit_jobs(
  p_tenant text[],
  p_job_id uuid[],
  p_method_id integer[],
  p_policy_id integer[],
  p_queue_id integer[],
  p_lane smallint[],
  p_last_key bigint[],
  p_step bigint[],
  p_run_at timestamptz[],
  p_request bytea[],
  p_request_id text[],
  p_fingerprint bytea[],
  p_actor text[],
  p_fairness_key text[],
  p_traceparent text[],
  p_tracestate text[],
  p_labels jsonb[],
  p_waiter_id uuid[],
  p_key_ttl interval
)
returns table (place bigint, outcome smallint, job_id uuid, order_key bigint)
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with input as materialized (
    select *
    from unnest(
      p_tenant, p_job_id, p_method_id, p_policy_id, p_queue_id, p_lane, p_last_key, p_step, p_run_at, p_request,
      p_request_id, p_fingerprint, p_actor, p_fairness_key, p_traceparent, p_tracestate, p_labels, p_waiter_id
    ) with ordinality as i (
      tenant, job_id, method_id, policy_id, queue_id, lane, last_key, step, run_at, request,
      request_id, fingerprint, actor, fairness_key, traceparent, tracestate, labels, waiter_id, place
    )
  ),
  routed as materialized (
    select i.*
    from input i
    join rowcall.tenant_route r on r.tenant = i.tenant and r.state = 1
  ),
  lane as materialized (
    select l.queue_id, l.lane, coalesce(pg_sequence_last_value(l.frontier), 0) as frontier
    from rowcall.queue_lane l
    where (l.queue_id, l.lane) in (select r.queue_id, r.lane from routed r)
  ),
  keyed as (
    insert into rowcall.job_key as k (tenant, method_id, request_id, job_id, fingerprint, expires_at)
    select r.tenant, r.method_id, r.request_id, r.job_id, r.fingerprint, clock_timestamp() + p_key_ttl
    from routed r
    where r.request_id is not null
    order by r.place
    on conflict (tenant, method_id, request_id) do update
    set
      job_id = case when k.expires_at <= clock_timestamp() then excluded.job_id else k.job_id end,
      fingerprint = case when k.expires_at <= clock_timestamp() then excluded.fingerprint else k.fingerprint end,
      expires_at = case when k.expires_at <= clock_timestamp() then excluded.expires_at else k.expires_at end,
      repeated_at = clock_timestamp()
    returning k.tenant, k.method_id, k.request_id, k.job_id, k.fingerprint
  ),
  judged as materialized (
    select
      r.*,
      coalesce(k.job_id, r.job_id) as named_job_id,
      case
        when r.request_id is null or k.job_id = r.job_id then 1
        when k.fingerprint = r.fingerprint then 2
        else 3
      end::smallint as outcome,
      coalesce(r.run_at > c.now, false) as later,
      case when r.run_at > c.now then 0 else greatest(l.frontier, r.last_key) + r.step end as new_key
    from routed r
    cross join (select clock_timestamp() as now) c
    join lane l on l.queue_id = r.queue_id and l.lane = r.lane
    left join keyed k on k.tenant = r.tenant and k.method_id = r.method_id and k.request_id = r.request_id
  ),
  created as (
    insert into rowcall.job (
      tenant, job_id, state, lane, queue_id, order_key, method_id, policy_id, run_at, ready_at, waiter_id,
      request, request_id, actor, fairness_key, traceparent, tracestate, labels
    )
    select
      j.tenant, j.job_id, case when j.later then 1 else 2 end, j.lane, j.queue_id, j.new_key,
      j.method_id, j.policy_id, coalesce(j.run_at, clock_timestamp()),
      case when j.later then null else clock_timestamp() end, j.waiter_id,
      j.request, j.request_id, j.actor, j.fairness_key, j.traceparent, j.tracestate, j.labels
    from judged j
    where j.outcome = 1
  )
  select i.place, coalesce(j.outcome, 4::smallint), coalesce(j.named_job_id, i.job_id), coalesce(j.new_key, 0)
  from input i
  left join judged j on j.place = i.place
  order by i.place
$$;

-- Claims up to p_limit ready jobs of one queue for a worker, lanes first, within a
-- lane in the order of their keys from p_from[lane] on (the worker's low-water
-- mark: dead index entries behind it cost nothing even while vacuum cannot take
-- them away). p_upto bounds a sweep for stragglers behind the mark; null is none.
-- Every claim raises the job's lease number. A dead worker, a paused queue and a
-- tenant that is being moved get and give nothing.
create function rowcall.claim_jobs(
  p_worker_id uuid,
  p_queue_id integer,
  p_method_id integer[],
  p_from bigint[],
  p_upto bigint[],
  p_limit integer
)
returns table (
  tenant text, job_id uuid, lease bigint, attempt integer, lane smallint, order_key bigint,
  method_id integer, policy_id integer, request bytea, request_id text, actor text,
  traceparent text, tracestate text, labels jsonb, created_at timestamptz, ready_at timestamptz, lost integer
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_left integer := p_limit;
  v_found integer;
  v_frontier regclass;
  v_highest bigint;
begin
  if not exists (select from rowcall.worker w where w.worker_id = p_worker_id and w.dead_at is null)
    or exists (select from rowcall.queue q where q.queue_id = p_queue_id and q.paused_at is not null)
  then
    return;
  end if;
  for v_lane in 1..4 loop
    exit when v_left <= 0;
    v_highest := null;
    return query
      with picked as materialized (
        select j.tenant, j.job_id
        from rowcall.job j
        where j.state = 2
          and j.queue_id = p_queue_id
          and j.lane = v_lane
          and j.order_key >= p_from[v_lane]
          and (p_upto is null or j.order_key <= p_upto[v_lane])
          and j.method_id = any (p_method_id)
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
          attempt_deadline = clock_timestamp() + p.timeout
        from picked, rowcall.policy p
        where j.tenant = picked.tenant and j.job_id = picked.job_id and j.state = 2 and p.policy_id = j.policy_id
        returning
          j.tenant, j.job_id, j.lease, j.attempt, j.lane, j.order_key, j.method_id, j.policy_id, j.request,
          j.request_id, j.actor, j.traceparent, j.tracestate, j.labels, j.created_at, j.ready_at, j.lost
      )
      select * from claimed c order by c.order_key, c.job_id;
    get diagnostics v_found = row_count;
    v_left := v_left - v_found;
  end loop;
end
$$;

-- Moves a lane's frontier up to what a worker has claimed; never back on purpose
-- (two claimers may race it back a little: sweeps find what lands below a mark).
create function rowcall.advance_frontier(p_queue_id integer, p_highest bigint[])
returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  select setval(l.frontier, p_highest[l.lane])
  from rowcall.queue_lane l
  where l.queue_id = p_queue_id
    and p_highest[l.lane] > coalesce(pg_sequence_last_value(l.frontier), 0)
$$;

-- Settles a batch of attempts. A job that is finished moves to history in the
-- same statement; one to be tried again stays, with a time to wait for. The lease
-- number must be the row's: a zombie's settle changes nothing and is answered
-- settled = false.
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
returns table (place bigint, settled boolean, state smallint, waiter_id uuid)
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with input as materialized (
    select *
    from unnest(
      p_tenant, p_job_id, p_lease, p_state, p_delay, p_response, p_error, p_error_code, p_error_message, p_span_id
    ) with ordinality as i (
      tenant, job_id, lease, state, delay, response, error, error_code, error_message, span_id, place
    )
  ),
  owned as materialized (
    select
      i.*,
      case when i.state = 1 and j.cancel_requested_at is not null then 6::smallint else i.state end as final_state
    from input i
    join rowcall.job j on j.tenant = i.tenant and j.job_id = i.job_id and j.lease = i.lease and j.state = 3
    order by j.tenant, j.job_id
    for update of j
  ),
  gone as (
    delete from rowcall.job j
    using owned o
    where j.tenant = o.tenant and j.job_id = o.job_id and j.lease = o.lease and j.state = 3 and o.final_state <> 1
    returning
      j.*, o.place, o.final_state, o.state as asked_state, o.response, o.error, o.error_code, o.error_message, o.span_id
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
      g.lost, g.payload_key_id, p.retention, rowcall.today(), clock_timestamp(), g.run_at, g.created_at, g.ready_at,
      g.started_at, g.cancel_requested_at, g.worker_id, w.name, g.request, g.request_id, g.actor, g.fairness_key,
      g.traceparent, g.tracestate, g.on_done, g.labels, g.attempts, g.span_id, g.response,
      case when g.asked_state = 1 then p_cancelled_error else g.error end,
      case when g.asked_state = 1 then 1 else g.error_code end,
      case when g.asked_state = 1 then 'The job was cancelled.' else g.error_message end
    from gone g
    join rowcall.policy p on p.policy_id = g.policy_id
    left join rowcall.worker w on w.worker_id = g.worker_id
  ),
  again as (
    update rowcall.job j
    set
      state = 1,
      run_at = clock_timestamp() + coalesce(o.delay, interval '0'),
      ready_at = null,
      worker_id = null,
      attempt_deadline = null,
      attempts = coalesce(j.attempts, '[]'::jsonb) || jsonb_strip_nulls(jsonb_build_object(
        'attempt', j.attempt, 'worker', (select w.name from rowcall.worker w where w.worker_id = j.worker_id),
        'started', j.started_at, 'ended', clock_timestamp(), 'outcome', 2, 'code', o.error_code, 'message', o.error_message, 'span', o.span_id,
        'error', encode(o.error, 'base64')
      ))
    from owned o
    where j.tenant = o.tenant and j.job_id = o.job_id and j.lease = o.lease and j.state = 3 and o.final_state = 1
    returning o.place, j.waiter_id
  )
  select
    i.place,
    g.place is not null or a.place is not null,
    case when g.place is not null then g.final_state when a.place is not null then 1::smallint end,
    coalesce(g.waiter_id, a.waiter_id)
  from input i
  left join gone g on g.place = i.place
  left join again a on a.place = i.place
  order by i.place
$$;

-- The key that puts a job next in its lane: just above the frontier.
create function rowcall.next_key(p_queue_id integer, p_lane smallint)
returns bigint
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(pg_sequence_last_value(l.frontier), 0) + 1
  from rowcall.queue_lane l
  where l.queue_id = p_queue_id and l.lane = p_lane
$$;

-- Hands running jobs back without using an attempt up: a drain, not a failure.
create function rowcall.release_jobs(p_tenant text[], p_job_id uuid[], p_lease bigint[])
returns table (place bigint, queue_id integer)
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with input as materialized (
    select *
    from unnest(p_tenant, p_job_id, p_lease) with ordinality as i (tenant, job_id, lease, place)
  )
  update rowcall.job j
  set
    state = 2,
    order_key = rowcall.next_key(j.queue_id, j.lane),
    ready_at = clock_timestamp(),
    lease = j.lease + 1,
    attempt = j.attempt - 1,
    worker_id = null,
    attempt_deadline = null,
    attempts = coalesce(j.attempts, '[]'::jsonb) || jsonb_build_object(
      'attempt', j.attempt, 'started', j.started_at, 'ended', clock_timestamp(), 'outcome', 6
    )
  from input i
  where j.tenant = i.tenant and j.job_id = i.job_id and j.lease = i.lease and j.state = 3
  returning i.place, j.queue_id
$$;

-- Makes due jobs ready, next in their lanes; answers with the queues that got some.
create function rowcall.promote_jobs(p_limit integer)
returns table (queue_id integer, promoted bigint)
language sql security definer set search_path = pg_catalog, pg_temp
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
    where j.tenant = d.tenant and j.job_id = d.job_id and j.state = 1
    returning j.queue_id
  )
  select r.queue_id, count(*) from ready r group by r.queue_id
$$;

-- Marks workers dead whose lease is over: first of all, so that they can neither
-- renew nor claim while their jobs are taken back.
create function rowcall.bury_workers()
returns table (worker_id uuid, name text)
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  update rowcall.worker w
  set dead_at = clock_timestamp()
  where w.worker_id in (
      select d.worker_id
      from rowcall.worker d
      where d.dead_at is null and d.lease_until < clock_timestamp()
      for update skip locked
    )
    and w.dead_at is null
    and w.lease_until < clock_timestamp()
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
    where j.tenant = o.tenant and j.job_id = o.job_id and j.lease = o.lease and j.state = 3 and o.new_state = 2
    returning j.tenant, j.job_id, j.queue_id, 2::smallint as state, j.waiter_id, o.worker
  ),
  gone as (
    delete from rowcall.job j
    using orphan o
    where j.tenant = o.tenant and j.job_id = o.job_id and j.lease = o.lease and j.state = 3 and o.new_state <> 2
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
      g.lost + 1, g.payload_key_id, p.retention, rowcall.today(), clock_timestamp(), g.run_at, g.created_at, g.ready_at,
      g.started_at, g.cancel_requested_at, g.worker_id, g.worker, g.request, g.request_id, g.actor, g.fairness_key,
      g.traceparent, g.tracestate, g.on_done, g.labels, g.attempts,
      case when g.new_state = 6 then p_cancelled_error else p_lost_error end,
      case when g.new_state = 6 then 1 else 10 end,
      case when g.new_state = 6 then 'The job was cancelled.' else 'Workers died each time they ran the job.' end
    from gone g
    join rowcall.policy p on p.policy_id = g.policy_id
  )
  select r.* from ready r
  union all
  select g.tenant, g.job_id, g.queue_id, g.new_state, g.waiter_id, g.worker from gone g
$$;
