-- What finished jobs become: rows of job_history, by retention class and day.
set local role rowcall_owner;

-- When a job finishes now, and the day that it then belongs to: of one clock reading.
-- Only functions with a search_path of their own call it.
create function rowcall.finishing_time()
returns table (now timestamptz, day date)
language sql volatile rows 1
as $$
  select c.now, (c.now at time zone 'UTC')::date from (select clock_timestamp() as now) c
$$;

-- The row of history that a live job becomes: the one place that knows both tables'
-- columns, but for settle_jobs. Without a search_path of its own, so that it is inlined; only
-- functions that have one call it.
create function rowcall.ended(
  p_job rowcall.job, p_state smallint, p_worker text, p_worker_version text, p_response bytea, p_error bytea,
  p_error_code integer, p_error_message text, p_location text, p_span_id text, p_now timestamptz, p_day date
)
returns setof rowcall.job_history
language sql stable rows 1
as $$
  select
    p_job.tenant, p_job.job_id, p_state, p_job.lane, p_job.priority, p_job.trace_flags, p_job.queue_id,
    p_job.order_key, p_job.method_id, p_job.policy_id, p_job.lease, p_job.parent_span_id, p_job.trace_id,
    p_job.attempt, p_job.lost, p_job.lost_alone, p_job.replays, p_job.payload_key_id, p_job.limit_id,
    p.retention, p_day, p_now, p_job.deadline, p_job.run_at, p_job.created_at, p_job.ready_at, p_job.started_at,
    p_job.cancel_requested_at, p_job.worker_id, p_worker, case when p_state <> 11 then p_worker_version end,
    p_job.request, p_job.request_id, p_job.actor, p_job.fairness_key, p_job.limit_key, p_job.tracestate,
    p_job.parent_job_id, p_job.group_id, p_job.on_done, p_job.labels, p_job.progress, p_job.progress_message,
    p_job.progress_at, p_job.attempts, p_span_id, p_response, p_error, p_error_code, p_error_message, p_location, null::text,
    null::timestamptz, null::text, null::text
  from rowcall.policy p
  where p.policy_id = p_job.policy_id
$$;

-- The attempts of a job with one more that has ended: the last hundred of them, for a
-- job may snooze for ever. p_outcome: rowcall.v1.AttemptOutcome. Inlined, as above.
create function rowcall.with_attempt(
  p_job rowcall.job, p_worker text, p_worker_version text, p_outcome integer, p_error_code integer,
  p_error_message text, p_location text, p_span_id text, p_error bytea
)
returns jsonb
language sql volatile
as $$
  select case
    when p_job.attempts is null then '[]'::jsonb
    when jsonb_array_length(p_job.attempts) >= 100 then p_job.attempts - 0
    else p_job.attempts
  end || jsonb_strip_nulls(jsonb_build_object(
    'attempt', p_job.attempt, 'lease', p_job.lease, 'worker', p_worker, 'version', p_worker_version,
    'started', p_job.started_at, 'ended', clock_timestamp(), 'outcome', p_outcome, 'code', p_error_code,
    'message', p_error_message, 'location', p_location, 'span', p_span_id, 'error', encode(p_error, 'base64')
  ))
$$;

-- What failures that are alike have in common: code and message, with whatever
-- counts or names one of them (numbers, ids) taken out. 16 hex digits.
create function rowcall.error_fingerprint(p_code integer, p_message text)
returns text
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
  select left(
    encode(
      sha256(
        convert_to(
          p_code || ' ' || regexp_replace(left(p_message, 1000), '[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|0x[0-9a-fA-F]+|[0-9]+', '#', 'g'),
          'UTF8'
        )
      ),
      'hex'
    ),
    16
  )
$$;

create function rowcall.fingerprint_failure()
returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  new.error_fingerprint := rowcall.error_fingerprint(new.error_code, new.error_message);
  return new;
end
$$;
create trigger fingerprint_failure before insert on rowcall.job_history
for each row when (new.state = 12) execute function rowcall.fingerprint_failure();

-- Protobuf's encoding, as far as an operation needs it: a varint, and a
-- length-delimited field (nothing where p_value is null). p_tag: the field's number
-- * 8 + 2, below 128.
create function rowcall.pb_varint(p_value integer)
returns bytea
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_left integer := p_value;
  v_bytes bytea := '';
begin
  while v_left > 127 loop
    v_bytes := v_bytes || decode(lpad(to_hex(v_left % 128 + 128), 2, '0'), 'hex');
    v_left := v_left / 128;
  end loop;
  return v_bytes || decode(lpad(to_hex(v_left), 2, '0'), 'hex');
end
$$;

create function rowcall.pb_field(p_tag integer, p_value bytea)
returns bytea
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(rowcall.pb_varint(p_tag) || rowcall.pb_varint(octet_length(p_value)) || p_value, '')
$$;

-- A finished job as a google.longrunning.Operation, serialised. Field numbers: of
-- operations.proto (name 1, metadata 2, done 3, error 4, response 5), any.proto
-- (type_url 1, value 2) and rowcall/v1/job.proto's JobMetadata (method 1, state 3, attempt 4).
create function rowcall.operation(p_job rowcall.job_history)
returns bytea
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select
    rowcall.pb_field(10, convert_to('tenants/' || p_job.tenant || '/operations/' || p_job.job_id, 'UTF8'))
    || rowcall.pb_field(
      18,
      rowcall.pb_field(10, convert_to('type.googleapis.com/rowcall.v1.JobMetadata', 'UTF8'))
      || rowcall.pb_field(
        18,
        rowcall.pb_field(10, convert_to(m.name, 'UTF8'))
        || decode('18', 'hex') || rowcall.pb_varint(p_job.state)
        || decode('20', 'hex') || rowcall.pb_varint(p_job.attempt)
      )
    )
    || decode('1801', 'hex')
    || case
      when p_job.state = 11 then rowcall.pb_field(
        42,
        rowcall.pb_field(10, convert_to('type.googleapis.com/' || coalesce(m.response_type, ''), 'UTF8'))
        -- Protobuf leaves an empty value out.
        || rowcall.pb_field(18, nullif(p_job.response, ''))
      )
      else rowcall.pb_field(34, p_job.error)
    end
  from rowcall.method m
  where m.method_id = p_job.method_id
$$;

-- Submits what a job asked to be followed by, whichever way it ended: in the same
-- transaction, for the same tenant, with the finished operation as its request.
create function rowcall.follow_up()
returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  insert into rowcall.job (
    tenant, job_id, state, lane, priority, queue_id, order_key, method_id, policy_id, run_at, ready_at, request, actor,
    trace_id, parent_span_id, trace_flags, tracestate, parent_job_id, labels, deadline
  )
  select
    new.tenant, rowcall.uuid_v7(), 2, new.on_done[4], new.on_done[4], new.on_done[3],
    rowcall.next_key(new.on_done[3], new.on_done[4]::smallint), new.on_done[1], new.on_done[2], clock_timestamp(),
    clock_timestamp(), rowcall.operation(new), new.actor, new.trace_id, new.parent_span_id, new.trace_flags,
    new.tracestate, new.job_id, new.labels, clock_timestamp() + p.deadline
  from rowcall.policy p
  where p.policy_id = new.on_done[2];
  return null;
end
$$;
create trigger follow_up after insert on rowcall.job_history
for each row when (new.on_done is not null) execute function rowcall.follow_up();

-- Makes the days of history, and of activity, from yesterday to p_days ahead. Each day is made as
-- a table of its own and then attached: ATTACH, unlike CREATE ... PARTITION OF,
-- does not stop writers; the CHECK spares it the scan.
create function rowcall.make_history_days(p_days integer)
returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_made integer := 0;
  v_parent text;
  v_day date;
  v_table text;
begin
  if p_days not between 1 and 400 then
    raise exception 'make_history_days: % days asked for, 1 to 400 are possible', p_days
      using errcode = 'invalid_parameter_value';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('rowcall.job_history', 0));
  foreach v_parent in array array['job_history_short', 'job_history_standard', 'job_history_long', 'activity'] loop
    for v_day in select ((clock_timestamp() at time zone 'UTC')::date + n)::date from generate_series(-1, p_days) as n loop
      v_table := format('%s_%s', v_parent, to_char(v_day, 'YYYYMMDD'));
      continue when to_regclass('rowcall.' || v_table) is not null;
      execute format('create table rowcall.%I (like rowcall.%I including defaults including constraints)', v_table, v_parent);
      execute format(
        'alter table rowcall.%I add constraint day check (finished_on is not null and finished_on >= %L and finished_on < %L)',
        v_table, to_char(v_day, 'YYYY-MM-DD'), to_char(v_day + 1, 'YYYY-MM-DD')
      );
      execute format(
        'alter table rowcall.%I attach partition rowcall.%I for values from (%L) to (%L)',
        v_parent, v_table, to_char(v_day, 'YYYY-MM-DD'), to_char(v_day + 1, 'YYYY-MM-DD')
      );
      execute format('alter table rowcall.%I drop constraint day', v_table);
      v_made := v_made + 1;
    end loop;
  end loop;
  return v_made;
end
$$;

-- Drops one day of history that is past its class's retention (1, 7 or 90 days after
-- the day it is of), or one of activity that is past 7; the day's table as its name, '' if one is due but was in use,
-- null if none is due. Called again until null.
-- DETACH ... CONCURRENTLY cannot be run by a function, and needs the owner's rights,
-- which no service has. Instead the locks that a plain DETACH needs are asked for without waiting:
-- nobody ever queues behind a request that is refused at once. Between two settles there is
-- room for it; while somebody reads history for long, there is none, and the day is
-- dropped later.
create function rowcall.drop_history_day(p_tries integer)
returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_parent text;
  v_table text;
begin
  select c.parent, c.child into v_parent, v_table
  from (
    select p.relname as parent, d.relname as child, to_date(right(d.relname, 8), 'YYYYMMDD') as day
    from pg_inherits i
    join pg_class p on p.oid = i.inhparent
    join pg_class d on d.oid = i.inhrelid
    where p.oid in (
        'rowcall.job_history_short'::regclass, 'rowcall.job_history_standard'::regclass,
        'rowcall.job_history_long'::regclass, 'rowcall.activity'::regclass
      )
  ) c
  where c.day < (clock_timestamp() at time zone 'UTC')::date
      - case c.parent when 'job_history_short' then 1 when 'job_history_long' then 90 else 7 end
  order by c.day
  limit 1;
  if not found then
    return null;
  end if;
  for v_try in 1..p_tries loop
    begin
      -- Of the other days none: a vacuum of one is no hindrance.
      execute format('lock table only rowcall.%I, only rowcall.%I in access exclusive mode nowait', v_parent, v_table);
      execute format('alter table rowcall.%I detach partition rowcall.%I', v_parent, v_table);
      execute format('drop table rowcall.%I', v_table);
      return v_table;
    exception
      when lock_not_available then
        perform pg_sleep(0.003);
    end;
  end loop;
  return '';
end
$$;

-- The roots' statistics after days came or went: autovacuum never looks at a
-- partitioned table itself.
create function rowcall.analyze_history()
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  analyze rowcall.job_history, rowcall.activity;
end
$$;
