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

-- A UUIDv7 of now. RFC 9562, section 5.7.
create function rowcall.uuid_v7()
returns uuid
language sql volatile
as $$
  select (
    overlay(
      lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0')
        || substr(replace(gen_random_uuid()::text, '-', ''), 13)
      placing '7' from 13 for 1
    )
  )::uuid
$$;

-- A call as submit_jobs takes it. deadline: how long the whole job may take from the time
-- it is to start. on_done: method_id, policy_id, queue_id and lane of the follow-up, with
-- commas between. One array of rows, here and in settle_jobs, not one for each column:
-- docs/adr/0015.
create type rowcall.submission as (
  tenant text, job_id uuid, method_id integer, policy_id integer, queue_id integer, lane smallint, last_key bigint,
  step bigint, run_at timestamptz, request bytea, request_id text, fingerprint bytea, actor text, fairness_key text,
  traceparent text, tracestate text, labels jsonb, waiter_id uuid, deadline interval, parent_job_id uuid, on_done text
);

-- Submits a batch, of any tenants and methods; the answer has one row for each call, by
-- its place (from 1).
-- outcome: 1 CREATED; 2 JOINED the job that has the key; 3 KEY_REUSED with another
-- fingerprint; 4 WRONG_SHARD, the tenant is not (or no longer) here; 5 the id's time
-- is more than an hour ahead of this clock (history is looked up by it). order_key
-- and created_at are a new job's; the key is 0 until it is ready.
-- A batch must not hold one key twice, and keyed calls must come sorted by key
-- (else two gateways deadlock); the caller sees to both. last_key and step
-- give start-time fair queueing: the job's order key is
-- greatest(the lane's frontier, the tenant's last key) + step / the tenant's weight.
-- A last key of 0 is not known: what other gateways have left in rowcall.turn counts.
create function rowcall.submit_jobs(p_submission rowcall.submission[], p_key_ttl interval)
returns table (place bigint, outcome smallint, job_id uuid, order_key bigint, created_at timestamptz)
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
      i.ordinality as place,
      greatest(i.last_key, t.last_key) as known_key,
      greatest(i.step / coalesce(r.weight, 1), 1)::bigint as weighed_step,
      case when i.job_id > v_latest then 5 when r.weight is null then 4 end::smallint as refusal
    from unnest(p_submission) with ordinality as i
    -- Limited, so that it stays a lookup by key however many tenants there are.
    left join lateral (
      select r.weight from rowcall.tenant_route r where r.tenant = i.tenant and r.state = 1 limit 1
    ) r on true
    left join lateral (
      select t.last_key
      from rowcall.turn t
      where i.last_key = 0 and t.tenant = i.tenant and t.queue_id = i.queue_id and t.lane = i.lane
      limit 1
    ) t on true
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
      expires_at = case when k.expires_at <= statement_timestamp() then excluded.expires_at else k.expires_at end,
      callers = case
        when k.expires_at <= statement_timestamp() then 1
        when k.fingerprint = excluded.fingerprint then k.callers + 1
        else k.callers
      end
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
        else greatest(l.frontier, i.known_key) + i.weighed_step
      end as new_key,
      clock_timestamp() as created_at
    from input i
    left join lane l on l.queue_id = i.queue_id and l.lane = i.lane
    left join keyed k on k.tenant = i.tenant and k.method_id = i.method_id and k.request_id = i.request_id
  ),
  created as (
    insert into rowcall.job (
      tenant, job_id, state, lane, priority, queue_id, order_key, method_id, policy_id, run_at, ready_at, waiter_id,
      request, request_id, actor, fairness_key, traceparent, tracestate, labels, deadline, parent_job_id, on_done, created_at
    )
    select
      j.tenant, j.job_id, case when j.later then 1 else 2 end, j.lane, j.lane, j.queue_id, j.new_key,
      j.method_id, j.policy_id, coalesce(j.run_at, clock_timestamp()),
      case when j.later then null else clock_timestamp() end, j.waiter_id,
      j.request, j.request_id, j.actor, j.fairness_key, j.traceparent, j.tracestate, j.labels,
      greatest(j.run_at, statement_timestamp()) + j.deadline, j.parent_job_id, string_to_array(j.on_done, ',')::integer[],
      j.created_at
    from judged j
    where j.outcome = 1
    order by j.place
  )
  select j.place, j.outcome, j.named_job_id, coalesce(j.new_key, 0), j.created_at from judged j order by j.place;
end
$$;

-- What submit_v1 is told in its options; refuses what it does not know, rather than leave
-- it out. Only functions with a search_path of their own call it.
create function rowcall.check_submit_options(p_options jsonb)
returns void
language plpgsql immutable
as $$
declare
  v_name text;
begin
  if jsonb_typeof(p_options) <> 'object' then
    raise exception 'submit_v1: the options are a JSON %, not an object', jsonb_typeof(p_options)
      using errcode = 'invalid_parameter_value';
  end if;
  select o.key into v_name
  from jsonb_each(p_options) o
  where o.key not in ('run_at', 'priority', 'labels', 'actor', 'traceparent', 'tracestate')
    or jsonb_typeof(o.value) <> case when o.key = 'labels' then 'object' else 'string' end
  limit 1;
  if found then
    raise exception 'submit_v1: the option % is unknown or not of its type', quote_literal(left(v_name, 100))
      using
        errcode = 'invalid_parameter_value',
        hint = 'Strings: run_at, priority, actor, traceparent, tracestate. An object of strings: labels.';
  end if;
  -- The regular expression alone would let a 31st of June through, the cast alone "tomorrow".
  if p_options ->> 'run_at' !~ '^[0-9]{4}(-[0-9]{2}){2}[Tt ][0-9]{2}(:[0-9]{2}){2}([.][0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$' then
    raise exception 'submit_v1: run_at % is no time with its zone', quote_literal(left(p_options ->> 'run_at', 100))
      using errcode = 'invalid_parameter_value', hint = 'Write it as RFC 3339: 2031-05-04T13:30:00Z.';
  end if;
  if p_options ->> 'priority' not in ('URGENT', 'HIGH', 'NORMAL', 'LOW') then
    raise exception 'submit_v1: % is no priority', quote_literal(left(p_options ->> 'priority', 100))
      using errcode = 'invalid_parameter_value', hint = 'The priorities are URGENT, HIGH, NORMAL and LOW.';
  end if;
  select l.key into v_name
  from jsonb_each(p_options -> 'labels') with ordinality as l (key, value, place)
  where l.place > 16
    or l.key !~ '^[a-z0-9][a-z0-9_.-]{0,62}$'
    or jsonb_typeof(l.value) <> 'string'
    or length(l.value #>> '{}') > 255
  limit 1;
  if found then
    raise exception 'submit_v1: the label % is none, or one too many', quote_literal(left(v_name, 100))
      using
        errcode = 'invalid_parameter_value',
        hint = 'Up to 16 strings of up to 255 characters, under names of lower-case letters, digits, "_", "." and "-", '
          '63 characters at most.';
  end if;
  if length(p_options ->> 'actor') not between 1 and 255 then
    raise exception 'submit_v1: the actor has % characters; 1 to 255 are possible', length(p_options ->> 'actor')
      using errcode = 'invalid_parameter_value';
  end if;
  if p_options ->> 'traceparent' !~ '^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$'
    or length(p_options ->> 'tracestate') > 512
  then
    raise exception 'submit_v1: traceparent or tracestate is none of W3C Trace Context'
      using errcode = 'invalid_parameter_value', hint = 'A traceparent of version 00, a tracestate of 512 characters at most.';
  end if;
end
$$;

-- For services that share the shard: one call, in their own transaction. It commits
-- with it or not at all. Stable: a change of meaning is another function.
--
-- p_method: "package.Service/Method", one that a gateway serves. p_request: the
-- serialised request message; the worker is the first to read it. p_request_id: the
-- idempotency key, as of a call. p_options, all optional: "run_at" (a time),
-- "priority" ("URGENT", "HIGH", "NORMAL", "LOW"), "labels" (an object of strings),
-- "actor", "traceparent", "tracestate" (strings).
-- Answers with the job's id: of the new job, or of the one that has the key.
--
-- The job is SCHEDULED for now. What makes it ready, half a second later at most, gives
-- it its turn: how far a tenant has moved ahead is known to the gateways, and here, in
-- somebody else's transaction, it could not be written without holding up all others
-- until that ends. Workers are told of it then too, without a NOTIFY in that transaction.
create function rowcall.submit_v1(
  p_tenant text, p_method text, p_request bytea, p_request_id text default null, p_options jsonb default '{}'
)
returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_options jsonb := coalesce(p_options, '{}');
  v_run_at timestamptz;
  v_method rowcall.method;
  v_key bytea;
  v_deadline interval;
  v_submission rowcall.submission;
  v_row record;
begin
  if p_tenant is null or p_tenant !~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$' then
    raise exception 'submit_v1: % is no tenant', coalesce(quote_literal(left(p_tenant, 100)), 'null')
      using errcode = 'invalid_parameter_value', hint = 'Lower-case letters, digits and inner "-", 63 characters at most.';
  end if;
  if p_request is null then
    raise exception 'submit_v1: the request is null'
      using errcode = 'null_value_not_allowed', hint = 'Pass the serialised message, an empty one as an empty bytea.';
  end if;
  if octet_length(p_request) > 1048576 then
    raise exception 'submit_v1: the request has % bytes; 1048576 are possible', octet_length(p_request)
      using errcode = 'program_limit_exceeded', hint = 'Pass large data by reference.';
  end if;
  if octet_length(p_request_id) not between 1 and 255 or p_request_id ~ '[^ -~]' then
    raise exception 'submit_v1: a request id has 1 to 255 printable ASCII characters'
      using errcode = 'invalid_parameter_value', hint = 'Without one, pass null.';
  end if;
  perform rowcall.check_submit_options(v_options);
  if v_options ? 'run_at' then
    begin
      v_run_at := (v_options ->> 'run_at')::timestamptz;
    exception
      when invalid_datetime_format or datetime_field_overflow or invalid_time_zone_displacement_value then null;
    end;
    if v_run_at is null or v_run_at not between '1970-01-01Z' and '9998-12-31Z' then
      raise exception 'submit_v1: run_at % is no time from 1970 to 9998', quote_literal(left(v_options ->> 'run_at', 100))
        using errcode = 'invalid_parameter_value', hint = 'Write it as RFC 3339: 2031-05-04T13:30:00Z.';
    end if;
  end if;
  select * into v_method from rowcall.method m where m.name = ltrim(p_method, '/') and m.policy_id is not null;
  if not found then
    raise exception 'submit_v1: no gateway has published the method %', coalesce(quote_literal(left(p_method, 300)), 'null')
      using
        errcode = 'undefined_object',
        hint = 'It is written package.Service/Method, and known to a shard when a gateway that serves it has started.';
  end if;
  select i.fingerprint_key into v_key from rowcall.shard_info i;
  select p.deadline into v_deadline from rowcall.policy p where p.policy_id = v_method.policy_id;
  v_submission.tenant := p_tenant;
  v_submission.job_id := rowcall.uuid_v7();
  v_submission.method_id := v_method.method_id;
  v_submission.policy_id := v_method.policy_id;
  v_submission.queue_id := v_method.queue_id;
  v_submission.lane := coalesce(
    array_position(array['URGENT', 'HIGH', 'NORMAL', 'LOW'], v_options ->> 'priority'), v_method.lane
  );
  v_submission.last_key := 0;
  v_submission.step := rowcall.order_stride();
  v_submission.run_at := greatest(v_run_at, statement_timestamp() + interval '1 microsecond');
  v_submission.request := p_request;
  v_submission.request_id := p_request_id;
  v_submission.fingerprint := substr(sha256(v_key || p_request), 1, 16);
  v_submission.actor := v_options ->> 'actor';
  v_submission.traceparent := v_options ->> 'traceparent';
  v_submission.tracestate := v_options ->> 'tracestate';
  v_submission.labels := nullif(v_options -> 'labels', '{}');
  v_submission.deadline := v_deadline;
  select * into v_row from rowcall.submit_jobs(array[v_submission], interval '168 hours');
  if v_row.outcome = 3 then
    raise exception 'submit_v1: the request id % names job % with another request', quote_literal(p_request_id), v_row.job_id
      using errcode = 'unique_violation', hint = 'Use a new request id for a new call.';
  elsif v_row.outcome = 4 then
    raise exception 'submit_v1: the tenant % does not live on this shard', quote_literal(p_tenant)
      using
        errcode = 'foreign_key_violation',
        hint = 'A gateway places a new tenant at its first call; one that moved lives on another shard.';
  end if;
  return v_row.job_id;
end
$$;
