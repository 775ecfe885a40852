-- Writing calls as rows: one statement a batch, one round trip, one commit.
set local role rowcall_owner;

-- The time that a UUIDv7 carries. RFC 9562, section 5.7: 48 bits of milliseconds.
create function rowcall.uuid_time(p_id uuid)
returns timestamptz
-- Without a search_path of its own, so that it is inlined; only functions that have
-- one call it.
language sql immutable parallel safe
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
-- fingerprint; 4 WRONG_SHARD, the tenant is not (or no longer) here; 5 the id's time
-- is more than an hour ahead of this clock (history is looked up by it).
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
-- plpgsql, because it keeps the plan for the session; a function in SQL is planned
-- at each call before Postgres 18. The plan is made without knowing a batch's size:
-- its parts are hashed, never compared each with each.
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_nestloop = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  -- The highest id of an hour from now: 48 bits of milliseconds, then ones.
  v_latest uuid := lpad(to_hex((extract(epoch from statement_timestamp()) * 1000)::bigint + 3600000), 12, '0')
    || repeat('f', 20);
begin
  return query
  with input as materialized (
    select
      i.*,
      case when i.job_id > v_latest then 5 when r.active is null then 4 end::smallint as refusal
    from unnest(
      p_tenant, p_job_id, p_method_id, p_policy_id, p_queue_id, p_lane, p_last_key, p_step, p_run_at, p_request,
      p_request_id, p_fingerprint, p_actor, p_fairness_key, p_traceparent, p_tracestate, p_labels, p_waiter_id
    ) with ordinality as i (
      tenant, job_id, method_id, policy_id, queue_id, lane, last_key, step, run_at, request,
      request_id, fingerprint, actor, fairness_key, traceparent, tracestate, labels, waiter_id, place
    )
    -- Limited, so that it stays a lookup by key however many tenants there are.
    left join lateral (
      select true as active from rowcall.tenant_route r where r.tenant = i.tenant and r.state = 1 limit 1
    ) r on true
  ),
  lane as materialized (
    select l.queue_id, l.lane, coalesce(pg_sequence_last_value(l.frontier), 0) as frontier
    from rowcall.queue_lane l
    where (l.queue_id, l.lane) in (select i.queue_id, i.lane from input i)
  ),
  keyed as (
    insert into rowcall.job_key as k (tenant, method_id, request_id, job_id, fingerprint, expires_at)
    select i.tenant, i.method_id, i.request_id, i.job_id, i.fingerprint, statement_timestamp() + p_key_ttl
    from input i
    where i.request_id is not null and i.refusal is null
    order by i.place
    -- A repeat writes, so that its answer is as durable as the first one's. A key
    -- that has expired is as good as none: the call takes it over.
    on conflict (tenant, method_id, request_id) do update
    set
      job_id = case when k.expires_at <= statement_timestamp() then excluded.job_id else k.job_id end,
      fingerprint = case when k.expires_at <= statement_timestamp() then excluded.fingerprint else k.fingerprint end,
      repeated_at = case when k.expires_at <= statement_timestamp() then null else statement_timestamp() end,
      expires_at = case when k.expires_at <= statement_timestamp() then excluded.expires_at else k.expires_at end
    returning k.tenant, k.method_id, k.request_id, k.job_id, k.fingerprint, k.repeated_at is null as is_new
  ),
  judged as materialized (
    select
      i.*,
      coalesce(k.job_id, i.job_id) as named_job_id,
      case
        when i.refusal is not null then i.refusal
        when i.request_id is null or k.is_new then 1
        when k.fingerprint = i.fingerprint then 2
        else 3
      end::smallint as outcome,
      coalesce(i.run_at > statement_timestamp(), false) as later,
      -- A queue without that lane leaves null, which the table refuses.
      case
        when l.lane is null then null
        when i.run_at > statement_timestamp() then 0
        else greatest(l.frontier, i.last_key) + i.step
      end as new_key
    from input i
    left join lane l on l.queue_id = i.queue_id and l.lane = i.lane
    left join keyed k on k.tenant = i.tenant and k.method_id = i.method_id and k.request_id = i.request_id
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
    order by j.place
  )
  select j.place, j.outcome, j.named_job_id, coalesce(j.new_key, 0) from judged j order by j.place;
end
$$;
