-- What people and services read of jobs: the view rowcall.jobs, and capability
-- functions that all begin with the tenant.
set local role rowcall_owner;

-- A google.rpc.Code in its word; a number that it has none for stays one.
create function rowcall.code_name(p_code integer)
returns text
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (array[
      'OK', 'CANCELLED', 'UNKNOWN', 'INVALID_ARGUMENT', 'DEADLINE_EXCEEDED', 'NOT_FOUND', 'ALREADY_EXISTS',
      'PERMISSION_DENIED', 'RESOURCE_EXHAUSTED', 'FAILED_PRECONDITION', 'ABORTED', 'OUT_OF_RANGE', 'UNIMPLEMENTED',
      'INTERNAL', 'UNAVAILABLE', 'DATA_LOSS', 'UNAUTHENTICATED'
    ])[p_code + 1],
    p_code::text
  )
$$;

-- A number of a serialised message that begins at p_at, from 0, and where it ends;
-- null where the message ends before it. (protobuf.dev/programming-guides/encoding)
create function rowcall.read_varint(p_message bytea, p_at integer, out number bigint, out stop integer)
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
  v_byte integer;
begin
  number := 0;
  stop := p_at;
  for v_shift in 0..63 by 7 loop
    exit when stop >= octet_length(p_message);
    v_byte := get_byte(p_message, stop);
    stop := stop + 1;
    number := number | ((v_byte & 127)::bigint << v_shift);
    if v_byte < 128 then
      return;
    end if;
  end loop;
  number := null;
end
$$;

-- The texts, bytes and messages in a serialised message, in its order. What cannot be
-- read ends it: people look at a row all the same.
create function rowcall.read_fields(p_message bytea)
returns table (field integer, value bytea)
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
  v_end integer := octet_length(p_message);
  v_at integer := 0;
  v_tag bigint;
  v_number bigint;
begin
  while v_at < v_end loop
    select r.number, r.stop into v_tag, v_at from rowcall.read_varint(p_message, v_at) r;
    exit when v_tag is null;
    case v_tag & 7
      when 0 then
        select r.stop into v_at from rowcall.read_varint(p_message, v_at) r;
      when 1 then
        v_at := v_at + 8;
      when 2 then
        select r.number, r.stop into v_number, v_at from rowcall.read_varint(p_message, v_at) r;
        exit when v_number is null or v_number < 0 or v_number > v_end - v_at;
        field := v_tag >> 3;
        value := substring(p_message from v_at + 1 for v_number::integer);
        return next;
        v_at := v_at + v_number::integer;
      when 5 then
        v_at := v_at + 4;
      else
        exit;
    end case;
  end loop;
end
$$;

-- The reason in a serialised google.rpc.Status: that of the last ErrorInfo of ours.
create function rowcall.error_reason(p_error bytea)
returns text
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
  select encode(i.reason, 'escape')
  from rowcall.read_fields(p_error) with ordinality as s (field, value, place)
  cross join lateral (
    select
      (array_agg(f.value) filter (where f.field = 1))[1] as type_url,
      (array_agg(f.value) filter (where f.field = 2))[1] as value
    from rowcall.read_fields(s.value) f
  ) d
  cross join lateral (
    select
      (array_agg(f.value) filter (where f.field = 1))[1] as reason,
      (array_agg(f.value) filter (where f.field = 2))[1] as domain
    from rowcall.read_fields(d.value) f
  ) i
  where s.field = 3 and d.type_url like '%/google.rpc.ErrorInfo'::bytea and i.domain = 'rowcall.dev'::bytea
  order by s.place desc
  limit 1
$$;

-- A job's attempts as a person reads them: outcome and code in words, the reason in
-- place of the serialised error that it stands in.
create function rowcall.attempts_in_words(p_attempts jsonb)
returns jsonb
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
  select jsonb_agg(
    (a.attempt - 'error') || jsonb_strip_nulls(jsonb_build_object(
      'outcome', (array[
        'SUCCEEDED', 'RETRIED', 'FAILED', 'CANCELLED', 'LOST', 'RELEASED', 'SNOOZED'
      ])[(a.attempt ->> 'outcome')::integer],
      'code', rowcall.code_name((a.attempt ->> 'code')::integer),
      'reason', rowcall.error_reason(decode(a.attempt ->> 'error', 'base64'))
    ))
    order by a.place
  )
  from jsonb_array_elements(p_attempts) with ordinality as a (attempt, place)
$$;

-- A state (rowcall.v1.JobState) in its word.
create function rowcall.state_name(p_state smallint)
returns text
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
  select case p_state
    when 1 then 'SCHEDULED'
    when 2 then 'READY'
    when 3 then 'RUNNING'
    when 4 then 'WAITING'
    when 11 then 'SUCCEEDED'
    when 12 then 'FAILED'
    when 13 then 'CANCELLED'
    when 14 then 'RESOLVED'
  end
$$;

-- The reasons that hold a job, in words; null where nothing does. What is said of how a suspect runs is
-- none of them.
create function rowcall.hold_names(p_held smallint)
returns text[]
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
  select array_agg(h.name order by h.bit)
  from (values (1, 'PAUSED'), (2, 'SUSPECT'), (8, 'LIMITED')) as h (bit, name)
  where p_held & h.bit = h.bit
$$;

-- Live and finished jobs as one table that a person can read. Payloads are left
-- out: they are protobuf bytes, decoded by GetJob's JOB_VIEW_FULL.
create view rowcall.jobs as
select
  'tenants/' || j.tenant || '/operations/' || j.job_id as name,
  j.tenant,
  j.job_id,
  m.name as method,
  q.name as queue,
  rowcall.state_name(j.state) as state,
  (array['URGENT', 'HIGH', 'NORMAL', 'LOW'])[j.priority] as priority,
  (array['URGENT', 'HIGH', 'NORMAL', 'LOW'])[j.lane] as lane,
  rowcall.hold_names(j.held) as held,
  j.attempt,
  p.max_attempts,
  j.lost,
  j.lost_alone,
  j.replays,
  j.actor,
  j.request_id,
  replace(j.trace_id::text, '-', '') as trace_id,
  'tenants/' || j.tenant || '/operations/' || j.parent_job_id as parent,
  j.labels,
  j.progress,
  j.progress_message,
  j.created_at,
  j.deadline,
  j.run_at,
  j.ready_at,
  j.started_at,
  j.finished_at,
  j.cancel_requested_at,
  coalesce(j.worker, w.name) as worker,
  rowcall.code_name(j.error_code) as error_code,
  rowcall.error_reason(j.error) as error_reason,
  j.error_message,
  j.error_fingerprint,
  j.resolved_at,
  j.resolved_by,
  j.resolve_note,
  octet_length(j.request) as request_bytes,
  octet_length(j.response) as response_bytes,
  rowcall.attempts_in_words(j.attempts) as attempts
from (
  select
    tenant, job_id, state, lane, priority, held, queue_id, method_id, policy_id, attempt, lost, lost_alone,
    replays, actor, request_id, trace_id, parent_job_id, labels, progress, progress_message, created_at, deadline, run_at,
    ready_at, started_at, null::timestamptz as finished_at, cancel_requested_at, worker_id, null::text as worker,
    null::bytea as error, null::integer as error_code, null::text as error_message, null::text as error_fingerprint,
    null::timestamptz as resolved_at, null::text as resolved_by, null::text as resolve_note, request,
    null::bytea as response, attempts
  from rowcall.job
  union all
  select
    tenant, job_id, state, lane, priority, null::smallint, queue_id, method_id, policy_id, attempt, lost, lost_alone,
    replays, actor, request_id, trace_id, parent_job_id, labels, progress, progress_message, created_at, deadline, run_at,
    ready_at, started_at, finished_at, cancel_requested_at, worker_id, worker,
    error, error_code, error_message, error_fingerprint, resolved_at, resolved_by, resolve_note, request,
    response, attempts
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
  attempts jsonb, span_id text, error bytea, request bytea, response bytea,
  deadline timestamptz, lost integer, replays integer, parent_job_id uuid, progress real, progress_message text,
  progress_at timestamptz, held smallint, error_fingerprint text, resolved_at timestamptz, resolved_by text,
  resolve_note text, request_type text, response_type text, lease bigint, location text, worker_version text
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
      j.tenant, j.job_id, j.state, j.priority, j.queue_id, j.method_id, j.policy_id, j.attempt, j.created_at, j.run_at,
      j.started_at, null::timestamptz as finished_at, j.cancel_requested_at, j.worker_id, null::text as worker, j.actor,
      j.request_id, j.trace_id, j.parent_span_id, j.trace_flags, j.labels, j.attempts, null::text as span_id, null::bytea as error,
      case when p_request then j.request end as request, null::bytea as response,
      j.deadline, j.lost, j.replays, j.parent_job_id, j.progress, j.progress_message, j.progress_at,
      (j.held & ~4)::smallint as held,
      null::text as error_fingerprint, null::timestamptz as resolved_at, null::text as resolved_by,
      null::text as resolve_note, j.lease, null::text as location, null::text as worker_version
    from asked a
    cross join lateral (
      select * from rowcall.job j where j.tenant = a.tenant and j.job_id = a.job_id limit 1
    ) j
    union all
    select
      h.tenant, h.job_id, h.state, h.priority, h.queue_id, h.method_id, h.policy_id, h.attempt, h.created_at, h.run_at,
      h.started_at, h.finished_at, h.cancel_requested_at, h.worker_id, h.worker, h.actor,
      h.request_id, h.trace_id, h.parent_span_id, h.trace_flags, h.labels, h.attempts, h.span_id, h.error,
      case when p_request then h.request end, case when p_response then h.response end,
      h.deadline, h.lost, h.replays, h.parent_job_id, h.progress, h.progress_message, h.progress_at, 0::smallint,
      h.error_fingerprint, h.resolved_at, h.resolved_by, h.resolve_note, h.lease, h.location, h.worker_version
    from asked a
    cross join lateral (
      select *
      from rowcall.job_history h
      where h.tenant = a.tenant and h.job_id = a.job_id and h.finished_on between v_since and v_until
      limit 1
    ) h
  )
  select
    f.tenant, f.job_id, f.state, f.priority, q.name, m.name, f.attempt, p.max_attempts, f.created_at, f.run_at,
    f.started_at, f.finished_at, f.cancel_requested_at, coalesce(f.worker, w.name), f.actor, f.request_id,
    rowcall.traceparent(f.trace_id, f.parent_span_id, f.trace_flags), f.labels, f.attempts, f.span_id, f.error,
    f.request, f.response,
    f.deadline, f.lost, f.replays, f.parent_job_id, f.progress, f.progress_message, f.progress_at, f.held,
    f.error_fingerprint, f.resolved_at, f.resolved_by, f.resolve_note, m.request_type, m.response_type,
    f.lease, f.location, f.worker_version
  from found f
  join rowcall.queue q on q.queue_id = f.queue_id
  join rowcall.method m on m.method_id = f.method_id
  join rowcall.policy p on p.policy_id = f.policy_id
  left join rowcall.worker w on w.worker_id = f.worker_id;
end
$$;

-- What jobs that are not running yet wait for, a row each (rowcall.v1.WaitReason), what keeps them
-- first; several may. started_at: since when, where that is known. who: who paused it; the worker that
-- served it last. ahead: the jobs whose turn is before it, counted to p_ahead and no further;
-- null where p_ahead is. Jobs that do not wait have no row.
create function rowcall.job_waits(p_tenant text[], p_job_id uuid[], p_ahead integer)
returns table (
  tenant text, job_id uuid, reason smallint, started_at timestamptz, who text, note text, ahead bigint
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  with waiting as materialized (
    select j.*, q.name as queue
    from unnest(p_tenant, p_job_id) as a (tenant, job_id)
    cross join lateral (
      select j.tenant, j.job_id, j.state, j.held, j.method_id, j.queue_id, j.lane, j.order_key, j.run_at
      from rowcall.job j
      where j.tenant = a.tenant and j.job_id = a.job_id and j.state in (1, 2, 4)
      limit 1
    ) j
    join rowcall.queue q on q.queue_id = j.queue_id
  ),
  lacking as materialized (
    select u.*
    from (
      select array_agg(d.method_id) as method_id, array_agg(d.queue) as queue
      from (select distinct w.method_id, w.queue from waiting w) d
    ) p
    cross join lateral rowcall.unserved(p.method_id, p.queue) u
  ),
  kept as materialized (
    select w.tenant, w.job_id, k.*
    from waiting w
    cross join lateral (
      select 1::smallint as reason, null::timestamptz as started_at, null::text as who, null::text as note
      where w.state = 1 and w.run_at > clock_timestamp()
      union all
      select 2::smallint, q.paused_at, q.paused_by, q.pause_note
      from rowcall.queue q
      where q.queue_id = w.queue_id and q.paused_at is not null
      union all
      select 3::smallint, m.paused_at, m.paused_by, m.pause_note
      from rowcall.method m
      where m.method_id = w.method_id and m.paused_at is not null
      union all
      select 4::smallint, r.paused_at, r.paused_by, r.pause_note
      from rowcall.tenant_route r
      where r.tenant = w.tenant and r.paused_at is not null
      union all
      select case when l.method_served then 6 else 5 end::smallint, l.until, l.worker, null
      from lacking l
      where l.method_id = w.method_id and l.queue = w.queue
      union all
      select 7::smallint, null, null, null
      where w.state = 2 and w.held & 2 = 2
      union all
      select 9::smallint, null, null, null
      where w.state = 4
      union all
      select 10::smallint, null, null, null
      where w.state = 2 and w.held & 8 = 8
    ) k
  )
  select k.tenant, k.job_id, k.reason, k.started_at, k.who, k.note, null::bigint from kept k
  union all
  select
    w.tenant, w.job_id, 8::smallint, null, null, null,
    case when p_ahead is not null and w.state = 2 then b.jobs end
  from waiting w
  cross join lateral (
    select count(*) as jobs
    from (
      select
      -- In no lane, where nothing is to be counted.
      from generate_series(1, case when p_ahead is not null and w.state = 2 then w.lane end) as a (lane)
      cross join lateral (
        -- From it forward: what was claimed and is not vacuumed yet lies at the front.
        select
        from rowcall.job j
        where j.state = 2 and j.held = 0 and j.queue_id = w.queue_id and j.lane = a.lane
          and j.order_key < case when a.lane < w.lane then 9223372036854775807 else w.order_key end
        order by j.queue_id desc, j.lane desc, j.order_key desc, j.job_id desc
        limit p_ahead
      ) n
      limit p_ahead
    ) n
  ) b
  where not exists (select from kept k where k.tenant = w.tenant and k.job_id = w.job_id);
end
$$;

-- The living workers (null: all; else those of a name), an entry for each identity, with what they serve: methods and
-- queues by name (every_queue: all of them). steady: its renewals come. Read from the highest beat down, and nothing is
-- counted: what it costs is the workers.
create function rowcall.list_workers(p_name text)
returns table (
  worker_id uuid, name text, host text, release text, version text, apart boolean, up_since timestamptz,
  registered_at timestamptz, renewed_at timestamptz, lease_until timestamptz, steady boolean, steady_since timestamptz,
  loop_lag interval, slots integer, threads integer, slots_taken integer, threads_taken integer, methods text[],
  queues text[], every_queue boolean
)
language sql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  select
    w.worker_id, w.name, w.host, w.release, w.version, w.apart, coalesce(w.up_since, w.started_at), w.started_at,
    b.renewed_at, b.lease_until, rowcall.is_steady(b.renewed_at), b.steady_since, b.loop_lag,
    w.slots, w.threads, b.slots_taken, b.threads_taken,
    array(
      select m.name
      from unnest(s.method_id) as u (method_id)
      join rowcall.method m on m.method_id = u.method_id
      order by m.name
    ),
    s.queues, s.worker_id is not null and s.queues is null
  from rowcall.worker w
  cross join lateral rowcall.last_beat(w.worker_id) b
  left join rowcall.serving s on s.worker_id = w.worker_id
  where w.dead_at is null and (p_name is null or w.name = p_name)
  order by w.name, w.started_at
$$;

-- The jobs that a worker runs (of a tenant, null: of any), as it said with its last renewal and each looked up by its key,
-- for job_running has an entry of whatever the worker ever ran while a snapshot is held. The longest first.
create function rowcall.worker_jobs(p_name text, p_tenant text)
returns table (tenant text, job_id uuid, method text, queue text, attempt integer, started_at timestamptz)
language sql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  select j.tenant, j.job_id, m.name, q.name, j.attempt, j.started_at
  from rowcall.worker w
  cross join lateral rowcall.last_beat(w.worker_id) b
  cross join lateral unnest(b.busy_tenant, b.busy_job_id) as r (tenant, job_id)
  cross join lateral (
    select j.*
    from rowcall.job j
    where j.tenant = r.tenant and j.job_id = r.job_id and j.worker_id = w.worker_id and rowcall.is_running(j.state)
    limit 1
  ) j
  join rowcall.method m on m.method_id = j.method_id
  join rowcall.queue q on q.queue_id = j.queue_id
  where w.dead_at is null and w.name = p_name and (p_tenant is null or r.tenant = p_tenant)
  order by j.started_at, j.job_id
$$;

-- Adds to what happened to jobs today: of tenants (queue_id 0) and of queues (tenant ''), each named once. Of a tenant that
-- does not live here nothing is kept. It need not wait for a standby: a count that is lost is nobody's job.
create function rowcall.add_tallies(
  p_slot smallint, p_tenant text[], p_queue_id integer[], p_accepted bigint[], p_started bigint[], p_succeeded bigint[],
  p_failed bigint[], p_dead bigint[], p_cancelled bigint[], p_answered_in_time bigint[], p_answered_joined bigint[],
  p_answered_operation bigint[], p_answered_still_running bigint[], p_answered_failed bigint[]
)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_day date := (clock_timestamp() at time zone 'UTC')::date;
  -- Whose first of the day, in this slot, these are.
  v_first text[];
begin
  perform rowcall.without_standby();
  -- One at a time in each slot: the next number is that of one of them.
  perform pg_advisory_xact_lock(hashtextextended('rowcall.tally', p_slot));
  with told as materialized (
    select
      g.*, l.number as last, l.accepted as accepted_before, l.started as started_before, l.succeeded as succeeded_before,
      l.failed as failed_before, l.dead as dead_before, l.cancelled as cancelled_before,
      l.answered_in_time as answered_in_time_before, l.answered_joined as answered_joined_before,
      l.answered_operation as answered_operation_before, l.answered_still_running as answered_still_running_before,
      l.answered_failed as answered_failed_before
    from unnest(
      p_tenant, p_queue_id, p_accepted, p_started, p_succeeded, p_failed, p_dead, p_cancelled, p_answered_in_time, p_answered_joined,
      p_answered_operation, p_answered_still_running, p_answered_failed
    ) as g (
      tenant, queue_id, accepted, started, succeeded, failed, dead, cancelled, answered_in_time, answered_joined, answered_operation,
      answered_still_running, answered_failed
    )
    left join lateral (
      select t.*
      from rowcall.tally t
      where t.day = v_day and t.tenant = g.tenant and t.queue_id = g.queue_id and t.slot = p_slot
      order by t.number
      limit 1
    ) l on true
    where g.tenant = ''
      or exists (select from rowcall.tenant_route r where r.tenant = g.tenant and r.state in (1, 2))
  ),
  gone as (
    delete from rowcall.tally t
    using told d
    where t.day = v_day and t.tenant = d.tenant and t.queue_id = d.queue_id and t.slot = p_slot and t.number = d.last
  ),
  kept as (
    insert into rowcall.tally (
      day, tenant, queue_id, slot, number, accepted, started, succeeded, failed, dead, cancelled, answered_in_time, answered_joined,
      answered_operation, answered_still_running, answered_failed
    )
    select
      v_day, d.tenant, d.queue_id, p_slot, coalesce(d.last, 0) - 1,
      d.accepted + coalesce(d.accepted_before, 0), d.started + coalesce(d.started_before, 0),
      d.succeeded + coalesce(d.succeeded_before, 0), d.failed + coalesce(d.failed_before, 0),
      d.dead + coalesce(d.dead_before, 0), d.cancelled + coalesce(d.cancelled_before, 0),
      d.answered_in_time + coalesce(d.answered_in_time_before, 0), d.answered_joined + coalesce(d.answered_joined_before, 0),
      d.answered_operation + coalesce(d.answered_operation_before, 0),
      d.answered_still_running + coalesce(d.answered_still_running_before, 0),
      d.answered_failed + coalesce(d.answered_failed_before, 0)
    from told d
    returning tenant, number
  )
  select array_agg(distinct k.tenant) filter (where k.number = -1) into v_first from kept k;
  delete from rowcall.tally t where t.tenant = any (v_first) and t.day < v_day - 7;
end
$$;

-- What happened to tenants today, those that anything happened to.
create function rowcall.tenant_tallies(p_tenant text[])
returns table (
  tenant text, accepted bigint, started bigint, succeeded bigint, failed bigint, dead bigint, cancelled bigint,
  answered_in_time bigint, answered_joined bigint, answered_operation bigint, answered_still_running bigint, answered_failed bigint
)
language sql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  select
    a.tenant, sum(t.accepted)::bigint, sum(t.started)::bigint, sum(t.succeeded)::bigint, sum(t.failed)::bigint,
    sum(t.dead)::bigint, sum(t.cancelled)::bigint, sum(t.answered_in_time)::bigint, sum(t.answered_joined)::bigint,
    sum(t.answered_operation)::bigint, sum(t.answered_still_running)::bigint, sum(t.answered_failed)::bigint
  from unnest(p_tenant) as a (tenant)
  cross join generate_series(0, 3) as s (slot)
  cross join lateral (
    select t.*
    from rowcall.tally t
    where t.day = (statement_timestamp() at time zone 'UTC')::date
      and t.tenant = a.tenant
      and t.queue_id = 0
      and t.slot = s.slot
    order by t.number
    limit 1
  ) t
  group by a.tenant
$$;

-- What happened to each queue today, those that anything happened to.
create function rowcall.queue_tallies()
returns table (
  queue_id integer, accepted bigint, started bigint, succeeded bigint, failed bigint, dead bigint, cancelled bigint,
  answered_in_time bigint, answered_joined bigint, answered_operation bigint, answered_still_running bigint, answered_failed bigint
)
language sql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  select
    q.queue_id, sum(t.accepted)::bigint, sum(t.started)::bigint, sum(t.succeeded)::bigint, sum(t.failed)::bigint,
    sum(t.dead)::bigint, sum(t.cancelled)::bigint, sum(t.answered_in_time)::bigint, sum(t.answered_joined)::bigint,
    sum(t.answered_operation)::bigint, sum(t.answered_still_running)::bigint, sum(t.answered_failed)::bigint
  from rowcall.queue q
  cross join generate_series(0, 3) as s (slot)
  cross join lateral (
    select t.*
    from rowcall.tally t
    where t.day = (statement_timestamp() at time zone 'UTC')::date
      and t.tenant = ''
      and t.queue_id = q.queue_id
      and t.slot = s.slot
    order by t.number
    limit 1
  ) t
  group by q.queue_id
$$;

-- What a tenant's share of today is held against: how many attempts of all tenants began, and the weights of those tenants
-- that anything happened to. They are found one behind the other, for between them lies what is dead.
create function rowcall.shard_today()
returns table (started bigint, weight double precision)
language sql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
  with recursive known as (
    (
      select t.tenant from rowcall.tally t where t.tenant > '' order by t.tenant, t.day, t.queue_id, t.slot, t.number limit 1
    )
    union all
    select n.tenant
    from known k
    cross join lateral (
      select t.tenant
      from rowcall.tally t
      where t.tenant > k.tenant
      order by t.tenant, t.day, t.queue_id, t.slot, t.number
      limit 1
    ) n
  )
  select
    (select coalesce(sum(q.started), 0)::bigint from rowcall.queue_tallies() q),
    (
      select coalesce(sum(r.weight), 0)
      from known k
      join rowcall.tenant_route r on r.tenant = k.tenant and r.state in (1, 2)
      where exists (
        select
        from rowcall.tally t
        where t.tenant = k.tenant and t.day = (statement_timestamp() at time zone 'UTC')::date
      )
    )
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
  select
    h.tenant, h.job_id, h.state, h.attempt, h.response, h.error,
    rowcall.traceparent(h.trace_id, h.parent_span_id, h.trace_flags)
  from unnest(p_tenant, p_job_id) as a (tenant, job_id)
  -- Limited, so that it stays a lookup by key, however small history was when the
  -- plan was made. Only the columns that are read: to begin with all of them costs as much
  -- again as the rest, for each day that is looked through.
  cross join lateral (
    select
      h.tenant, h.job_id, h.state, h.attempt, h.response, h.error, h.trace_id, h.parent_span_id, h.trace_flags
    from rowcall.job_history h
    where h.tenant = a.tenant and h.job_id = a.job_id and h.finished_on between v_since and v_until
    limit 1
  ) h;
end
$$;

-- The ids of a tenant's jobs that match, newest first, below p_before. Every other
-- argument narrows, or is null: states (rowcall.v1.JobState), method, queue, labels
-- (all of them), failure's fingerprint, actor, idempotency key, parent, times from (inclusive) and
-- to (exclusive) of creation and of finishing.
create function rowcall.find_jobs(
  p_tenant text, p_before uuid, p_limit integer, p_states smallint[], p_method text, p_queue text, p_labels jsonb,
  p_fingerprint text, p_actor text, p_request_id text, p_parent_job_id uuid,
  p_created_from timestamptz, p_created_to timestamptz, p_finished_from timestamptz, p_finished_to timestamptz
)
returns table (job_id uuid)
-- Planned for each call, with what is null left out.
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
  v_method_id integer := (select m.method_id from rowcall.method m where m.name = p_method);
  v_queue_id integer := (select q.queue_id from rowcall.queue q where q.name = p_queue);
  v_live boolean := p_finished_from is null and p_finished_to is null and p_fingerprint is null
    and coalesce(p_states && array[1, 2, 3, 4]::smallint[], true);
  v_done boolean := coalesce(p_states && array[11, 12, 13, 14]::smallint[], true);
  v_failed boolean := coalesce(p_states = array[12]::smallint[], false);
  v_first date := (p_finished_from at time zone 'UTC')::date;
  v_last date := (p_finished_to at time zone 'UTC')::date;
begin
  if p_method is not null and v_method_id is null or p_queue is not null and v_queue_id is null then
    return;
  end if;
  return query
  with chosen as (
    (
      select j.job_id
      from rowcall.job j
      where v_live
        and j.tenant = p_tenant
        and (p_before is null or j.job_id < p_before)
        and (p_states is null or j.state = any (p_states))
        and (p_method is null or j.method_id = v_method_id)
        and (p_queue is null or j.queue_id = v_queue_id)
        and (p_labels is null or j.labels @> p_labels)
        and (p_actor is null or j.actor = p_actor)
        and (p_request_id is null or j.request_id = p_request_id)
        and (p_parent_job_id is null or j.parent_job_id = p_parent_job_id)
        and (p_created_from is null or j.created_at >= p_created_from)
        and (p_created_to is null or j.created_at < p_created_to)
      order by j.job_id desc
      limit p_limit
    )
    union all
    (
      select h.job_id
      from rowcall.job_history h
      where v_done
        and h.tenant = p_tenant
        and (p_before is null or h.job_id < p_before)
        and (p_states is null or h.state = any (p_states))
        -- Said so that the index of the failed ones is used for them.
        and (not v_failed or h.state = 12)
        and (p_fingerprint is null or h.error_fingerprint = p_fingerprint)
        and (p_method is null or h.method_id = v_method_id)
        and (p_queue is null or h.queue_id = v_queue_id)
        and (p_labels is null or h.labels @> p_labels)
        and (p_actor is null or h.actor = p_actor)
        and (p_request_id is null or h.request_id = p_request_id)
        and (p_parent_job_id is null or h.parent_job_id = p_parent_job_id)
        and (p_created_from is null or h.created_at >= p_created_from)
        and (p_created_to is null or h.created_at < p_created_to)
        and (p_finished_from is null or h.finished_at >= p_finished_from and h.finished_on >= v_first)
        and (p_finished_to is null or h.finished_at < p_finished_to and h.finished_on <= v_last)
      order by h.job_id desc
      limit p_limit
    )
  )
  select c.job_id from chosen c order by c.job_id desc limit p_limit;
end
$$;

-- A tenant's dead letters (null: all tenants') by what they died of, most first.
create function rowcall.group_failures(p_tenant text, p_method text, p_finished_from timestamptz, p_limit integer)
returns table (
  method text, error_fingerprint text, jobs bigint, first_finished_at timestamptz, last_finished_at timestamptz,
  error_code integer, error_message text, last_job_id uuid, tenants bigint, last_tenant text
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
  v_method_id integer := (select m.method_id from rowcall.method m where m.name = p_method);
  v_first date := (p_finished_from at time zone 'UTC')::date;
begin
  return query
  with failed as (
    select
      h.method_id, h.error_fingerprint, count(*) as jobs, min(h.finished_at) as first_at, max(h.finished_at) as last_at,
      (array_agg(h.error_code order by h.job_id desc))[1] as error_code,
      (array_agg(h.error_message order by h.job_id desc))[1] as error_message,
      (array_agg(h.job_id order by h.job_id desc))[1] as last_job_id,
      count(distinct h.tenant) as tenants,
      (array_agg(h.tenant order by h.job_id desc))[1] as last_tenant
    from rowcall.job_history h
    -- Planned for each call: without a tenant the condition is gone.
    where (p_tenant is null or h.tenant = p_tenant)
      and h.state = 12
      and (p_method is null or h.method_id = v_method_id)
      and (p_finished_from is null or h.finished_at >= p_finished_from and h.finished_on >= v_first)
    group by h.method_id, h.error_fingerprint
  )
  select m.name, f.error_fingerprint, f.jobs, f.first_at, f.last_at, f.error_code, f.error_message, f.last_job_id,
    f.tenants, f.last_tenant
  from failed f
  join rowcall.method m on m.method_id = f.method_id
  order by f.jobs desc, f.last_at desc
  limit p_limit;
end
$$;
