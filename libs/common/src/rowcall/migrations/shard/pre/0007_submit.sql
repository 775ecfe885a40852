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
      lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000)::bigint), 12, '0')
        || substr(replace(gen_random_uuid()::text, '-', ''), 13)
      placing '7' from 13 for 1
    )
  )::uuid
$$;

-- The parts of a W3C traceparent of version 00, which is kept as these: half its size, and the trace is
-- looked for by its id. Inlined; only functions with a search_path of their own call them.
create function rowcall.trace_id_of(p_traceparent text)
returns uuid
language sql immutable parallel safe
as $$
  select substr(p_traceparent, 4, 32)::uuid
$$;

create function rowcall.span_id_of(p_traceparent text)
returns bigint
language sql immutable parallel safe
as $$
  select ('x' || substr(p_traceparent, 37, 16))::bit(64)::bigint
$$;

create function rowcall.trace_flags_of(p_traceparent text)
returns smallint
language sql immutable parallel safe
as $$
  select ('x' || substr(p_traceparent, 54, 2))::bit(8)::integer::smallint
$$;

-- And back; null where there is no trace.
create function rowcall.traceparent(p_trace_id uuid, p_parent_span_id bigint, p_trace_flags smallint)
returns text
language sql immutable parallel safe
as $$
  select '00-' || replace(p_trace_id::text, '-', '')
    || '-' || lpad(to_hex(p_parent_span_id), 16, '0')
    || '-' || lpad(to_hex(p_trace_flags::integer), 2, '0')
$$;

-- A call as submit_jobs takes it. deadline: how long the whole job may take from the time
-- it is to start. on_done: method_id, policy_id, queue_id and lane of the follow-up, with
-- commas between. One array of rows, here and in settle_jobs, not one for each column:
-- docs/adr/0015.
create type rowcall.submission as (
  tenant text, job_id uuid, method_id integer, policy_id integer, queue_id integer, lane smallint, last_key bigint,
  step bigint, run_at timestamptz, request bytea, request_id text, fingerprint bytea, actor text, fairness_key text,
  traceparent text, tracestate text, labels jsonb, waiter_id uuid, deadline interval, parent_job_id uuid, on_done text,
  limit_id integer, limit_key text, group_id uuid
);

-- Submits a batch, of any tenants and methods; the answer has one row for each call, by
-- its place (from 1).
-- outcome: 1 CREATED; 2 JOINED the job that has the key; 3 KEY_REUSED with another
-- fingerprint; 4 WRONG_SHARD, the tenant is not (or no longer) here; 5 the id's time
-- is more than an hour ahead of this clock (history is looked up by it); 6 NOT_ADMITTED, a bound on
-- backlogs lets no more in (over_backlog). order_key and created_at are a new job's; the key is 0 until it is ready.
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
  -- The least backlog that is bounded, looked at once a batch: where there is none, no job is asked for its place.
  v_least bigint;
  -- Whether any queue is bounded as a whole, and whether any method's jobs may be held.
  v_queues boolean;
  v_holding boolean;
begin
  select min(b.backlog), bool_or(b.tenant = '' and num_nonnulls(b.backlog, b.oldest_age) > 0) into v_least, v_queues
  from rowcall.bound b;
  v_holding := v_least is not null and exists (select from rowcall.method m where m.holding);
  return query
  with input as materialized (
    select
      i.*,
      i.ordinality as place,
      greatest(i.last_key, t.last_key) as known_key,
      greatest(i.step / coalesce(r.weight, 1), 1)::bigint as weighed_step,
      r.weight,
      r.holding,
      case when i.job_id > v_latest then 5 when r.weight is null then 4 end::smallint as refusal
    from unnest(p_submission) with ordinality as i
    -- Limited, so that it stays a lookup by key however many tenants there are.
    left join lateral (
      select r.weight, r.holding from rowcall.tenant_route r where r.tenant = i.tenant and r.state = 1 limit 1
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
  refused as materialized (
    select i.place
    from input i
    join lane l on l.queue_id = i.queue_id and l.lane = i.lane
    where v_least is not null
      and i.refusal is null
      and not coalesce(i.run_at > statement_timestamp(), false)
      -- Most are far from any bound. One that is not is held to its own: the frontier, which is of the join, has that
      -- asked behind this.
      and (
        i.holding
        or v_holding
        or greatest(i.known_key - l.frontier, 0) * i.weight + i.step > v_least * rowcall.order_stride()::double precision
      )
      and rowcall.over_backlog(
        i.tenant, i.queue_id, i.lane, i.method_id, i.request_id, l.frontier, i.known_key, i.step, i.weight
      )
    union all
    select s.place
    from (
      select i.*, row_number() over (partition by i.tenant, i.queue_id order by i.place) as of_these
      from input i
      where v_least is not null and i.refusal is null and i.run_at > statement_timestamp()
    ) s
    where rowcall.over_schedule(s.tenant, s.queue_id, s.method_id, s.request_id, s.of_these)
    union all
    -- What handlers submit: for callers a gateway has looked, and what it let in since.
    select i.place
    from input i
    where v_queues
      and i.refusal is null
      and i.parent_job_id is not null
      and rowcall.queue_full(i.queue_id)
      and rowcall.is_new_key(i.tenant, i.method_id, i.request_id)
  ),
  keyed as (
    insert into rowcall.job_key as k (tenant, method_id, request_id, job_id, fingerprint, expires_at)
    select i.tenant, i.method_id, i.request_id, i.job_id, i.fingerprint, statement_timestamp() + p_key_ttl
    from input i
    where i.request_id is not null
      and i.refusal is null
      -- One that is refused must find nothing under its key when it comes again.
      and i.place not in (select r.place from refused r)
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
        when i.place in (select r.place from refused r) then 6
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
      request, request_id, actor, fairness_key, trace_id, parent_span_id, trace_flags, tracestate, labels, deadline,
      parent_job_id, on_done, limit_id, limit_key, group_id, created_at
    )
    select
      j.tenant, j.job_id, case when j.later then 1 else 2 end, j.lane, j.lane, j.queue_id, j.new_key,
      j.method_id, j.policy_id, coalesce(j.run_at, clock_timestamp()),
      case when j.later then null else clock_timestamp() end, j.waiter_id,
      j.request, j.request_id, j.actor, j.fairness_key, rowcall.trace_id_of(j.traceparent),
      rowcall.span_id_of(j.traceparent), rowcall.trace_flags_of(j.traceparent), j.tracestate, j.labels,
      greatest(j.run_at, statement_timestamp()) + j.deadline, j.parent_job_id, string_to_array(j.on_done, ',')::integer[],
      j.limit_id, j.limit_key, j.group_id, j.created_at
    from judged j
    where j.outcome = 1
    order by j.place
  )
  select j.place, j.outcome, j.named_job_id, coalesce(j.new_key, 0), j.created_at from judged j order by j.place;
end
$$;

-- What submit_v1 is told in its options: when the job is to run, and its lane. Refuses what it
-- does not know, rather than leave it out. Only functions with a search_path of their own
-- call it.
create function rowcall.read_submit_options(p_options jsonb, out run_at timestamptz, out lane smallint)
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
  if p_options ? 'run_at' then
    begin
      run_at := (p_options ->> 'run_at')::timestamptz;
    exception
      when invalid_datetime_format or datetime_field_overflow or invalid_time_zone_displacement_value then null;
    end;
    if run_at is null or run_at not between '1970-01-01Z' and '9998-12-31Z' then
      raise exception 'submit_v1: run_at % is no time from 1970 to 9998', quote_literal(left(p_options ->> 'run_at', 100))
        using errcode = 'invalid_parameter_value', hint = 'Write it as RFC 3339: 2031-05-04T13:30:00Z.';
    end if;
  end if;
  if p_options ->> 'priority' not in ('URGENT', 'HIGH', 'NORMAL', 'LOW') then
    raise exception 'submit_v1: % is no priority', quote_literal(left(p_options ->> 'priority', 100))
      using errcode = 'invalid_parameter_value', hint = 'The priorities are URGENT, HIGH, NORMAL and LOW.';
  end if;
  lane := array_position(array['URGENT', 'HIGH', 'NORMAL', 'LOW'], p_options ->> 'priority');
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

-- A serialised message in a form in which it is equal to every other serialisation of
-- the same message, as far as they can be told from here; null where it cannot be
-- read, is of a type that no gateway has published, or is nested or has fields beyond
-- what is looked at: whoever asks then compares bytes. Two messages with one form are
-- the same; that two have different ones need not mean that they are not.
--
-- Fields of different numbers may be written in any order, entries of a map too. What a
-- type does not know keeps its order, and so does what a oneof or a single field has more
-- than once, where the last one counts. The form is a piece for each field: its number,
-- the length and the content, which begins with what it is: 0 occurrences as they are,
-- 1 packed numbers, 2 messages in their order, 3 entries of a map, sorted.
--
-- p_depth: how deep the message lies in another one. budget: how many fields may still
-- be read. key: of an entry of a map, where it is not the default.
create function rowcall.canonical_message(
  p_type text, p_message bytea, p_depth integer, inout budget integer, out form bytea, out key bytea
)
-- Without a search_path of its own, which costs as much as a small message; only
-- functions that have one call it.
language plpgsql stable
as $$
declare
  -- No literals of bytes: how one is read depends on the caller's session.
  c_raw constant bytea := decode('00', 'hex');
  c_packed constant bytea := decode('01', 'hex');
  c_ordered constant bytea := decode('02', 'hex');
  c_sorted constant bytea := decode('03', 'hex');
  c_form constant bytea := decode('04', 'hex');
  -- Of all that is not known: behind every field.
  c_unknown constant integer := 536870912;
  v_fields jsonb;
  v_field jsonb;
  v_end integer := octet_length(p_message);
  v_at integer := 0;
  v_from integer;
  v_number bigint;
  v_wire integer;
  v_place integer := 0;
  v_last integer;
  v_ascending boolean := true;
  v_numbers integer[];
  v_wires integer[];
  v_places integer[];
  v_values bytea[];
  v_order integer[];
  v_count integer := 0;
  v_start integer := 1;
  v_stop integer;
  v_index integer;
  v_kind text;
  v_type text;
  v_packed_type text;
  v_once boolean;
  v_whole boolean;
  v_value bytea;
  v_content bytea;
  v_parts bytea[];
  v_keys bytea[];
  v_inner_form bytea;
  v_inner_key bytea;
  v_pieces bytea := '';
begin
  -- A message is looked at for as much time as some fields.
  budget := budget - 5;
  if p_depth > 100 or budget < 0 then
    return;
  end if;
  if p_type = 'google.protobuf.Any' then
    v_fields := '{"1": {"kind": "type_url", "wire": 2}, "2": {"kind": "any", "wire": 2}}';
  else
    select m.fields into v_fields from rowcall.message_type m where m.name = p_type;
    if not found then
      return;
    end if;
  end if;

  while v_at < v_end loop
    budget := budget - 1;
    if budget < 0 then
      return;
    end if;
    v_number := get_byte(p_message, v_at);
    v_at := v_at + 1;
    if v_number > 127 then
      select r.number, r.stop into v_number, v_at from rowcall.read_varint(p_message, v_at - 1) r;
    end if;
    -- The highest number of a field is 2^29 - 1.
    if v_number is null or v_number not between 8 and 4294967295 then
      return;
    end if;
    v_wire := v_number & 7;
    v_number := v_number >> 3;
    v_from := v_at;
    if v_wire = 0 then
      loop
        if v_at >= v_end or v_at - v_from > 9 then
          return;
        end if;
        v_at := v_at + 1;
        exit when get_byte(p_message, v_at - 1) < 128;
      end loop;
    elsif v_wire = 1 then
      v_at := v_at + 8;
    elsif v_wire = 5 then
      v_at := v_at + 4;
    elsif v_wire = 2 and v_at < v_end then
      v_from := get_byte(p_message, v_at);
      v_at := v_at + 1;
      if v_from > 127 then
        select case when r.number between 0 and v_end then r.number end, r.stop into v_from, v_at
        from rowcall.read_varint(p_message, v_at - 1) r;
      end if;
      if v_from is null or v_from > v_end - v_at then
        return;
      end if;
      v_at := v_at + v_from;
      v_from := v_at - v_from;
    else
      -- Groups, which no message of today has, and what is none.
      return;
    end if;
    if v_at > v_end then
      return;
    end if;
    v_last := v_place;
    v_field := v_fields -> v_number::text;
    v_place := case
      when (v_field ->> 'wire')::integer = v_wire or v_wire = 2 and v_field ->> 'kind' = 'packed'
        then coalesce((v_field ->> 'oneof')::integer, v_number::integer)
      else c_unknown
    end;
    v_ascending := v_ascending and v_place >= v_last;
    v_count := v_count + 1;
    v_numbers[v_count] := v_number;
    v_wires[v_count] := v_wire;
    v_places[v_count] := v_place;
    v_values[v_count] := substring(p_message from v_from + 1 for v_at - v_from);
  end loop;
  if not v_ascending then
    select array_agg(p.index::integer order by p.place, p.index) into v_order
    from unnest(v_places) with ordinality as p (place, index);
  end if;

  <<pieces>>
  while v_start <= v_count loop
    v_index := coalesce(v_order[v_start], v_start);
    v_place := v_places[v_index];
    v_stop := v_start;
    while v_stop < v_count and v_places[coalesce(v_order[v_stop + 1], v_stop + 1)] = v_place loop
      v_stop := v_stop + 1;
    end loop;
    v_once := v_start = v_stop;
    v_field := case when v_place < c_unknown then v_fields -> v_numbers[v_index]::text end;
    v_kind := v_field ->> 'kind';
    v_value := v_values[v_index];
    v_content := null;
    if v_kind = 'key' then
      if not v_once then
        return;
      end if;
      key := v_value;
      if v_wires[v_index] = 0 then
        -- One number can be written in several ways.
        select int8send(case (v_field ->> 'bits')::integer
          when 1 then (r.number <> 0)::integer
          when 32 then r.number & 4294967295
          else r.number
        end) into key
        from rowcall.read_varint(v_value, 0) r;
      end if;
      key := case when v_wires[v_index] = 2 or btrim(key, c_raw) <> '' then nullif(key, '') end;
    end if;
    if v_once and v_kind in ('implicit', 'key', 'type_url', 'any')
      and (v_value = '' or v_wires[v_index] <> 2 and btrim(v_value, c_raw) = '')
    then
      -- Zero is as good as absent.
      v_start := v_stop + 1;
      continue pieces;
    end if;
    if v_once and v_kind = 'type_url' then
      v_packed_type := substring(encode(v_value, 'escape') from '/([^/]+)$');
    end if;
    if v_kind in ('messages', 'map') or v_once and v_kind in ('message', 'value', 'any') then
      v_type := case v_kind when 'any' then v_packed_type else v_field ->> 'type' end;
      v_parts := '{}';
      v_keys := '{}';
      for v_number in v_start..v_stop loop
        v_value := v_values[coalesce(v_order[v_number], v_number)];
        select c.budget, c.form, c.key into budget, v_inner_form, v_inner_key
        from rowcall.canonical_message(v_type, v_value, p_depth + 1, budget) c;
        if budget < 0 then
          return;
        end if;
        v_parts := v_parts || case
          when v_inner_form is null then c_raw || int4send(octet_length(v_value)) || v_value
          else c_form || int4send(octet_length(v_inner_form)) || v_inner_form
        end;
        v_keys := v_keys || case when v_inner_form is not null then coalesce(v_inner_key, '') end;
      end loop;
      if v_kind = 'value' and v_inner_form = '' then
        -- An entry without a value has an empty one.
        v_start := v_stop + 1;
        continue pieces;
      end if;
      if v_once then
        v_content := c_ordered || v_parts[1];
      -- A map that has an entry twice, or one that cannot be read, keeps its order.
      elsif v_kind = 'map' and (
        select count(k.key) = count(*) and count(distinct k.key) = count(*) from unnest(v_keys) as k (key)
      )
      then
        select c_sorted || string_agg(p.part, '' order by p.part) into v_content from unnest(v_parts) as p (part);
      else
        select c_ordered || string_agg(p.part, '' order by p.ordinality) into v_content
        from unnest(v_parts) with ordinality as p (part);
      end if;
    elsif v_kind = 'packed' then
      -- Each of them has to be one that ends, so that they can be put together.
      v_whole := true;
      v_parts := '{}';
      for v_number in v_start..v_stop loop
        v_value := v_values[coalesce(v_order[v_number], v_number)];
        v_whole := v_whole and case (v_field ->> 'wire')::integer
          when 1 then octet_length(v_value) % 8 = 0
          when 5 then octet_length(v_value) % 4 = 0
          else v_value = '' or get_byte(v_value, octet_length(v_value) - 1) < 128
        end;
        v_parts := v_parts || v_value;
      end loop;
      if v_whole then
        select c_packed || string_agg(p.part, '' order by p.ordinality) into v_content
        from unnest(v_parts) with ordinality as p (part);
        if v_content = c_packed then
          v_start := v_stop + 1;
          continue pieces;
        end if;
      end if;
    end if;
    if v_content is null then
      v_parts := '{}';
      for v_number in v_start..v_stop loop
        v_index := coalesce(v_order[v_number], v_number);
        v_value := v_values[v_index];
        v_parts := v_parts
          || (int4send(v_numbers[v_index]) || int4send(v_wires[v_index]) || int4send(octet_length(v_value)) || v_value);
      end loop;
      if v_once then
        v_content := c_raw || v_parts[1];
      else
        select c_raw || string_agg(p.part, '' order by p.ordinality) into v_content
        from unnest(v_parts) with ordinality as p (part);
      end if;
    end if;
    v_pieces := v_pieces || int4send(v_place) || int4send(octet_length(v_content)) || v_content;
    v_start := v_stop + 1;
  end loop;
  form := v_pieces;
end
$$;

-- Whether two serialised requests of a method are the same one, by the types that
-- gateways have published here, and by bytes where those do not say.
create function rowcall.same_request(p_method_id integer, p_one bytea, p_other bytea)
returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_type text;
  -- Some tens of milliseconds for both.
  v_budget constant integer := 10000;
  v_one record;
  v_other record;
begin
  if p_one = p_other then
    return true;
  end if;
  select m.request_type into v_type from rowcall.method m where m.method_id = p_method_id;
  select * into v_one from rowcall.canonical_message(v_type, p_one || ''::bytea, 0, v_budget);
  if v_one.form is null then
    return false;
  end if;
  select * into v_other from rowcall.canonical_message(v_type, p_other || ''::bytea, 0, v_budget);
  return coalesce(v_one.form = v_other.form, false);
end
$$;

-- For a call that submit_jobs refused with KEY_REUSED: the fingerprint that the key has,
-- if the job that it names, live or finished, was submitted with the same request; with it
-- the call may be submitted again and joins. Else null, and so it is for a job that was
-- deleted: nobody knows its request any more.
create function rowcall.kept_fingerprint(p_tenant text, p_method_id integer, p_request_id text, p_request bytea)
returns bytea
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
  v_key rowcall.job_key;
  v_request bytea;
begin
  select * into v_key
  from rowcall.job_key k
  where k.tenant = p_tenant and k.method_id = p_method_id and k.request_id = p_request_id
    and k.expires_at > statement_timestamp();
  if not found then
    return null;
  end if;
  select j.request into v_request from rowcall.read_jobs(array[p_tenant], array[v_key.job_id], true, false) j;
  if not found then
    return null;
  end if;
  return case when rowcall.same_request(p_method_id, v_request, p_request) then v_key.fingerprint end;
end
$$;

-- What submit_jobs does with a key, for the one call of submit_v1: it is this job's, or some job
-- has it already; is_same: with this fingerprint. Only functions with a search_path of
-- their own call it.
create function rowcall.take_key(
  p_tenant text, p_method_id integer, p_request_id text, p_fingerprint bytea, p_key_ttl interval,
  inout job_id uuid, out is_new boolean, out is_same boolean
)
language plpgsql volatile
as $$
#variable_conflict use_column
begin
  insert into rowcall.job_key as held (tenant, method_id, request_id, job_id, fingerprint, expires_at)
  values (p_tenant, p_method_id, p_request_id, take_key.job_id, p_fingerprint, statement_timestamp() + p_key_ttl)
  on conflict (tenant, method_id, request_id) do update
  set
    job_id = case when held.expires_at <= statement_timestamp() then excluded.job_id else held.job_id end,
    fingerprint = case when held.expires_at <= statement_timestamp() then excluded.fingerprint else held.fingerprint end,
    repeated_at = case when held.expires_at <= statement_timestamp() then null else statement_timestamp() end,
    expires_at = case when held.expires_at <= statement_timestamp() then excluded.expires_at else held.expires_at end,
    callers = case
      when held.expires_at <= statement_timestamp() then 1
      when held.fingerprint = excluded.fingerprint then held.callers + 1
      else held.callers
    end
  returning held.job_id, held.repeated_at is null, held.fingerprint = p_fingerprint into job_id, is_new, is_same;
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
-- The job is READY in its turn, without anything locked for it. Where its tenant has a backlog
-- of such jobs already it is SCHEDULED for now: what makes it ready, half a second later at
-- most, gives it its turn (key_in_sql). Workers are not told of it: wake_v1 does that.
create function rowcall.submit_v1(
  p_tenant text, p_method text, p_request bytea, p_request_id text default null, p_options jsonb default '{}'
)
returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  -- Few expressions: to begin one costs more, in a function that is called once a
  -- transaction, than most of them do (docs/adr/0022).
  v_odd text := case
    when p_tenant is null or p_tenant !~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$' then 'tenant'
    when p_request is null then 'no request'
    when octet_length(p_request) > 1048576 then 'large request'
    when octet_length(p_request_id) not between 1 and 255 or p_request_id ~ '[^ -~]' then 'request id'
    when p_options <> '{}' then 'options'
  end;
  v_run_at timestamptz;
  v_lane smallint;
  v_traceparent text;
  v_found record;
  v_fingerprint bytea;
  v_key record;
  v_base bigint;
begin
  if v_odd is not null then
    case v_odd
      when 'tenant' then
        raise exception 'submit_v1: % is no tenant', coalesce(quote_literal(left(p_tenant, 100)), 'null')
          using errcode = 'invalid_parameter_value', hint = 'Lower-case letters, digits and inner "-", 63 characters at most.';
      when 'no request' then
        raise exception 'submit_v1: the request is null'
          using errcode = 'null_value_not_allowed', hint = 'Pass the serialised message, an empty one as an empty bytea.';
      when 'large request' then
        raise exception 'submit_v1: the request has % bytes; 1048576 are possible', octet_length(p_request)
          using errcode = 'program_limit_exceeded', hint = 'Pass large data by reference.';
      when 'request id' then
        raise exception 'submit_v1: a request id has 1 to 255 printable ASCII characters'
          using errcode = 'invalid_parameter_value', hint = 'Without one, pass null.';
      when 'options' then
        select o.run_at, o.lane, p_options ->> 'traceparent' into v_run_at, v_lane, v_traceparent
        from rowcall.read_submit_options(p_options) o;
    end case;
  end if;
  select
    m.method_id, m.policy_id, m.queue_id, coalesce(v_lane, m.lane) as lane, p.deadline, r.weight, rowcall.uuid_v7() as job_id,
    exists (select from rowcall.bound b where num_nonnulls(b.backlog, b.oldest_age) > 0) as bounded
  into v_found
  from rowcall.method m
  join rowcall.policy p on p.policy_id = m.policy_id
  left join rowcall.tenant_route r on r.tenant = p_tenant and r.state = 1
  where m.name = ltrim(p_method, '/');
  if v_found.weight is null then
    if not found then
      raise exception 'submit_v1: no gateway has published the method %', coalesce(quote_literal(left(p_method, 300)), 'null')
        using
          errcode = 'undefined_object',
          hint = 'It is written package.Service/Method, and known to a shard when a gateway that serves it has started.';
    end if;
    if exists (select from rowcall.tenant_route r where r.tenant = p_tenant and r.state = 4) then
      raise exception 'submit_v1: the tenant % was erased, or is being erased', quote_literal(p_tenant)
        using
          errcode = 'object_not_in_prerequisite_state',
          hint = 'It takes no calls until an admin opens it again (rowcall tenants reopen).';
    end if;
    raise exception 'submit_v1: the tenant % does not live on this shard', quote_literal(p_tenant)
      using
        errcode = 'foreign_key_violation',
        hint = 'A gateway places a new tenant at its first call; one that moved lives on another shard.';
  end if;
  if p_request_id is not null then
    -- Of format 1, as rowcall.catalogue.requests makes it.
    v_fingerprint := decode('01', 'hex')
      || substr(sha256((select i.fingerprint_key from rowcall.shard_info i) || p_request), 1, 16);
    for v_time in 1..2 loop
      v_key := rowcall.take_key(
        p_tenant, v_found.method_id, p_request_id, v_fingerprint, interval '168 hours', v_found.job_id
      );
      exit when v_key.is_new or v_key.is_same;
      -- Gateways make the fingerprint of a serialisation of their own.
      v_fingerprint := rowcall.kept_fingerprint(p_tenant, v_found.method_id, p_request_id, p_request);
      if v_time = 2 or v_fingerprint is null then
        raise exception 'submit_v1: the request id % names job % with another request',
          quote_literal(p_request_id), v_key.job_id
          using errcode = 'unique_violation', hint = 'Use a new request id for a new call.';
      end if;
    end loop;
    if not v_key.is_new then
      return v_key.job_id;
    end if;
  end if;
  v_base := case
    when v_run_at > statement_timestamp() then null
    else rowcall.key_in_sql(p_tenant, v_found.queue_id, v_found.lane)
  end;
  -- Its key is this job's by now, and is given back with everything else of the statement.
  if v_found.bounded then
    perform rowcall.check_bounds_v1(
      p_tenant, p_method, v_found.method_id, v_found.queue_id, v_found.lane,
      coalesce(v_run_at > statement_timestamp(), false), v_base, v_found.weight
    );
  end if;
  -- Without a key yet it is SCHEDULED: for later, or, as its flow has a backlog, for now.
  insert into rowcall.job (
    tenant, job_id, state, lane, priority, queue_id, order_key, method_id, policy_id, run_at, ready_at, request,
    request_id, actor, trace_id, parent_span_id, trace_flags, tracestate, labels, deadline, by_sql
  )
  values (
    p_tenant, v_found.job_id, case when v_base is null then 1 else 2 end, v_found.lane, v_found.lane, v_found.queue_id,
    coalesce(v_base + greatest(rowcall.order_stride() / v_found.weight, 1)::bigint, 0),
    v_found.method_id, v_found.policy_id, greatest(v_run_at, statement_timestamp()),
    case when v_base is not null then clock_timestamp() end, p_request, p_request_id,
    p_options ->> 'actor', rowcall.trace_id_of(v_traceparent), rowcall.span_id_of(v_traceparent),
    rowcall.trace_flags_of(v_traceparent), p_options ->> 'tracestate', nullif(p_options -> 'labels', '{}'),
    greatest(v_run_at, statement_timestamp()) + v_found.deadline, true
  );
  return v_found.job_id;
end
$$;

-- Has workers look now for what submit_v1 has written, rather than when they would by
-- themselves. To be called behind the commit, as a statement of its own: inside of the
-- transaction it works too, but NOTIFY takes a lock of the whole database while that commits.
-- It says nothing, reads nothing, and nothing is lost with it.
create function rowcall.wake_v1()
returns void
language sql volatile
return pg_catalog.pg_notify('rowcall_wake', '');
