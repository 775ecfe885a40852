-- Tenants as operators see them: what is here of one, everything of it to be taken along, and
-- everything of it erased. docs/adr/0037.
set local role rowcall_owner;

-- The erasures of tenants. A finished one is the receipt, and stays.
create table rowcall.erasure (
  tenant text not null,
  -- Of this tenant's, from 1.
  number bigint not null,
  begun_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  actor text,
  note text,
  -- How many rows are gone, by what they are.
  erased jsonb not null default '{}',
  -- History is erased in the order of ids: behind this one, so that it is not walked over what is gone.
  history_after uuid,
  -- So is the audit, in the order of its places.
  audit_after bigint not null default 0,
  -- Nothing was left, and every transaction from this one on has written nothing before that.
  quiet_from xid8,
  primary key (tenant, number)
);

-- Tenants as this shard has them, with their last erasures; those that it does not know are left out.
create function rowcall.find_tenants(p_tenant text[])
returns table (
  tenant text, epoch bigint, state smallint, weight double precision, paused_at timestamptz, paused_by text,
  pause_note text, number bigint, begun_at timestamptz, finished_at timestamptz, actor text, note text, erased jsonb
)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select
    r.tenant, r.epoch, r.state, r.weight, r.paused_at, r.paused_by, r.pause_note, e.number, e.begun_at, e.finished_at,
    e.actor, e.note, e.erased
  from unnest(p_tenant) as a (tenant)
  join rowcall.tenant_route r on r.tenant = a.tenant
  left join lateral (
    select l.* from rowcall.erasure l where l.tenant = r.tenant order by l.number desc limit 1
  ) e on true
$$;

-- A tenant's live jobs: those that run, found by their workers, and the others among the p_cap that were submitted
-- first, so that a million cost no more. capped: there may be more.
create function rowcall.count_live(p_tenant text, p_cap integer)
returns table (scheduled bigint, ready bigint, held bigint, running bigint, waiting bigint, capped boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  select
    count(*) filter (where j.state = 1),
    count(*) filter (where j.state = 2),
    count(*) filter (where j.state = 2 and j.held <> 0),
    (
      select count(*)
      from rowcall.worker w
      join rowcall.job r on r.worker_id = w.worker_id and r.state = 3 and r.tenant = p_tenant
    ),
    count(*) filter (where j.state = 4),
    count(*) >= p_cap
  from (
    select l.state, l.held from rowcall.job l where l.tenant = p_tenant order by l.tenant, l.job_id limit p_cap
  ) j;
end
$$;

-- What there is to erase of a tenant, each kind counted to p_cap and no further.
create function rowcall.count_erasable(p_tenant text, p_cap integer)
returns table (kind text, rows bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select 'jobs', count(*) from (select from rowcall.job j where j.tenant = p_tenant limit p_cap) c
  union all
  select 'history', count(*) from (select from rowcall.job_history h where h.tenant = p_tenant limit p_cap) c
  union all
  select 'keys', count(*) from (select from rowcall.job_key k where k.tenant = p_tenant limit p_cap) c
  union all
  select 'spend', count(*)
  from (
    select from rowcall.spend_entry s where s.tenant = p_tenant
    union all
    select from rowcall.spend s where s.tenant = p_tenant
    limit p_cap
  ) c
  union all
  select 'activity', count(*) from (select from rowcall.activity s where s.tenant = p_tenant limit p_cap) c
  union all
  select 'turns', count(*) from (select from rowcall.turn t where t.tenant = p_tenant limit p_cap) c
  union all
  select 'readers', count(*) from (select from rowcall.tenant_reader r where r.tenant = p_tenant limit p_cap) c
  union all
  select 'audit', count(*) from (select from rowcall.audit a where a.tenant = p_tenant and a.action <> 'audit.erase' limit p_cap) c
$$;

-- The tables of users' own that hold rows of tenants (register_tenant_table): nobody of ours may touch them.
create function rowcall.tenant_tables()
returns table (name text, tenant_column text)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select t.name, t.tenant_column from rowcall.tenant_table t order by t.name
$$;

-- Erases a part of a tenant, p_limit rows of each kind at most, or begins to: the first call closes it and does nothing more,
-- so that what follows sees it closed. Answers with the erasure as it is then; no row: the tenant does not live here.
-- phase: 1 there is more to erase now; 2 jobs still run; 3 answers that somebody may be waiting for are kept for
-- p_linger; 4 what was on its way when the tenant was closed may still come, for p_settle; 5 a transaction is open that began
-- before that; 6 done; 7 entries of its audit are not sealed yet. What was cancelled, and who waits for it or runs it: cancelled_*, of equal lengths.
--
-- Jobs that wait are cancelled, and those that run are asked to end, so that whoever waits is answered; those
-- that still run p_grace after the beginning are ended here, and their workers find their lease gone.
create function rowcall.erase_tenant(
  p_tenant text, p_limit integer, p_by text, p_note text, p_error bytea, p_linger interval, p_grace interval,
  p_settle interval, p_act jsonb
)
returns table (
  number bigint, begun_at timestamptz, finished_at timestamptz, actor text, note text, erased jsonb, phase smallint,
  cancelled_job_id uuid[], cancelled_state smallint[], cancelled_waiter_id uuid[], cancelled_worker_id uuid[]
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_state smallint;
  v_erasure rowcall.erasure;
  v_room integer := p_limit;
  v_ids uuid[];
  v_more uuid[];
  v_gone bigint;
  v_last uuid;
  v_unnamed bigint;
  v_unsaid boolean := false;
  v_counts jsonb := '{}';
begin
  cancelled_job_id := '{}';
  cancelled_state := '{}';
  cancelled_waiter_id := '{}';
  cancelled_worker_id := '{}';
  -- Whoever erases the same tenant meanwhile waits; so does who opens it again.
  select r.state into v_state from rowcall.tenant_route r where r.tenant = p_tenant and r.state <> 3 for update;
  if not found then
    return;
  end if;
  select e.* into v_erasure from rowcall.erasure e where e.tenant = p_tenant order by e.number desc limit 1;
  -- Turns may still be told of by gateways that submitted for it; they are forgotten by themselves.
  if v_state <> 4 or v_erasure.finished_at is not null and exists (
    select from rowcall.count_erasable(p_tenant, 1) c where c.rows > 0 and c.kind <> 'turns'
  ) then
    insert into rowcall.erasure as e (tenant, number, actor, note)
    values (p_tenant, coalesce(v_erasure.number, 0) + 1, p_by, p_note)
    returning e.* into v_erasure;
    -- Paused, so that claims leave its jobs alone.
    update rowcall.tenant_route r
    set
      state = 4,
      changed_at = clock_timestamp(),
      paused_at = coalesce(r.paused_at, clock_timestamp()),
      paused_by = case when r.paused_at is null then p_by else r.paused_by end,
      pause_note = case when r.paused_at is null then 'It is being erased.' else r.pause_note end
    where r.tenant = p_tenant;
    -- In the system's chain: the tenant's own is what is erased.
    perform rowcall.record_action(
      rowcall.with_reason(p_act, p_note), '', 'tenant.erase', 'tenants/' || p_tenant,
      jsonb_build_object('state', case v_state when 4 then 'ERASED' else 'ACTIVE' end),
      jsonb_build_object('state', 'ERASING', 'erasure', v_erasure.number)
    );
    return query
    select
      v_erasure.number, v_erasure.begun_at, v_erasure.finished_at, v_erasure.actor, v_erasure.note, v_erasure.erased,
      1::smallint, cancelled_job_id, cancelled_state, cancelled_waiter_id, cancelled_worker_id;
    return;
  end if;
  if v_erasure.finished_at is not null then
    return query
    select
      v_erasure.number, v_erasure.begun_at, v_erasure.finished_at, v_erasure.actor, v_erasure.note, v_erasure.erased,
      6::smallint, cancelled_job_id, cancelled_state, cancelled_waiter_id, cancelled_worker_id;
    return;
  end if;

  -- What waits. Its row goes to history, where whoever waits for it finds the answer.
  v_ids := array(
    select j.job_id
    from rowcall.job j
    where j.tenant = p_tenant and j.state in (1, 2, 4)
    order by j.tenant, j.job_id
    limit v_room
  );
  select
    coalesce(array_agg(c.job_id), '{}'), coalesce(array_agg(c.state), '{}'), coalesce(array_agg(c.waiter_id), '{}'),
    coalesce(array_agg(c.worker_id), '{}')
  into cancelled_job_id, cancelled_state, cancelled_waiter_id, cancelled_worker_id
  from (
    select a.job_id, d.*
    from unnest(v_ids) as a (job_id)
    cross join lateral rowcall.cancel_job(p_tenant, a.job_id, p_error, false) d
  ) c;
  v_room := v_room - cardinality(v_ids);
  v_counts := v_counts || jsonb_build_object('jobs', cardinality(v_ids));

  -- What runs is asked to end, once.
  with asked as (
    update rowcall.job j
    set cancel_requested_at = clock_timestamp()
    -- By worker: a look through all that the tenant has, for each part, would take as long as that is.
    from rowcall.worker w
    where j.worker_id = w.worker_id and j.state = 3 and j.tenant = p_tenant and j.cancel_requested_at is null
    returning j.job_id, j.waiter_id, j.worker_id
  )
  select
    cancelled_job_id || coalesce(array_agg(a.job_id), '{}'),
    cancelled_state || coalesce(array_agg(3::smallint), '{}'),
    cancelled_waiter_id || coalesce(array_agg(a.waiter_id), '{}'),
    cancelled_worker_id || coalesce(array_agg(a.worker_id), '{}')
  into cancelled_job_id, cancelled_state, cancelled_waiter_id, cancelled_worker_id
  from asked a;

  -- What will not end.
  if v_room > 0 and v_erasure.begun_at + p_grace <= clock_timestamp() then
    v_ids := array(
      select j.job_id
      from rowcall.job j
      where j.tenant = p_tenant and j.state = 3
      order by j.tenant, j.job_id
      limit v_room
      for update
    );
    with gone as (
      delete from rowcall.job j
      where j.tenant = p_tenant and j.job_id = any (v_ids)
      returning j as live, j.waiter_id
    ),
    ended as (
      insert into rowcall.job_history
      select h.*
      from gone g
      cross join rowcall.finishing_time() t
      left join rowcall.worker w on w.worker_id = (g.live).worker_id
      cross join lateral rowcall.ended(
        g.live, 13::smallint, w.name, w.version, null, p_error, 1, 'The job was cancelled.', null, null, t.now, t.day
      ) h
    )
    select
      cancelled_job_id || coalesce(array_agg((g.live).job_id), '{}'),
      cancelled_state || coalesce(array_agg(13::smallint), '{}'),
      cancelled_waiter_id || coalesce(array_agg(g.waiter_id), '{}'),
      cancelled_worker_id || coalesce(array_agg(null::uuid), '{}'),
      coalesce(array_agg((g.live).job_id), '{}')
    into cancelled_job_id, cancelled_state, cancelled_waiter_id, cancelled_worker_id, v_more
    from gone g;
    v_room := v_room - cardinality(v_more);
    v_counts := v_counts
      || jsonb_build_object('jobs', (v_counts ->> 'jobs')::bigint + cardinality(v_more));
  end if;

  if v_room > 0 then
    with chosen as materialized (
      select h.job_id, h.retention, h.finished_on
      from rowcall.job_history h
      where h.tenant = p_tenant
        and h.job_id > coalesce(v_erasure.history_after, '00000000-0000-0000-0000-000000000000')
        and h.finished_at <= clock_timestamp() - p_linger
      order by h.tenant, h.job_id
      limit v_room
    ),
    gone as (
      delete from rowcall.job_history h
      using chosen c
      where h.tenant = p_tenant and h.job_id = c.job_id and h.retention = c.retention and h.finished_on = c.finished_on
      returning h.job_id, h.trace_id
    ),
    -- All that an incident has of a tenant is the trace of the last time that it was met.
    unnamed as (
      update rowcall.incident i
      set trace_id = null
      where i.trace_id in (select replace(g.trace_id::text, '-', '') from gone g)
      returning 1
    )
    select count(*), (array_agg(g.job_id order by g.job_id desc))[1], (select count(*) from unnamed)
    into v_gone, v_last, v_unnamed
    from gone g;
    v_counts := v_counts || jsonb_build_object('incidents', v_unnamed);
    -- At the end from the front again: what was cancelled meanwhile may lie before it.
    v_erasure.history_after := case when v_gone = v_room then v_last end;
    v_room := v_room - v_gone;
    v_counts := v_counts || jsonb_build_object('history', v_gone);
  end if;
  if v_room > 0 then
    with chosen as materialized (
      select k.method_id, k.request_id
      from rowcall.job_key k
      where k.tenant = p_tenant
      order by k.tenant, k.method_id, k.request_id
      limit v_room
    )
    delete from rowcall.job_key k
    using chosen c
    where k.tenant = p_tenant and k.method_id = c.method_id and k.request_id = c.request_id;
    get diagnostics v_gone = row_count;
    v_room := v_room - v_gone;
    v_counts := v_counts || jsonb_build_object('keys', v_gone);
  end if;
  if v_room > 0 then
    with chosen as materialized (
      select s.job_id, s.lease, s.call
      from rowcall.spend_entry s
      where s.tenant = p_tenant
      order by s.tenant, s.job_id, s.lease, s.call
      limit v_room
    )
    delete from rowcall.spend_entry s
    using chosen c
    where s.tenant = p_tenant and s.job_id = c.job_id and s.lease = c.lease and s.call = c.call;
    get diagnostics v_gone = row_count;
    v_room := v_room - v_gone;
    v_counts := v_counts || jsonb_build_object('spend', v_gone);
  end if;
  if v_room > 0 then
    with chosen as materialized (
      select s.trace_id, s.span_id, s.finished_on
      from rowcall.activity s
      where s.tenant = p_tenant
      order by s.tenant, s.trace_id, s.span_id
      limit v_room
    )
    delete from rowcall.activity s
    using chosen c
    where s.tenant = p_tenant and s.trace_id = c.trace_id and s.span_id = c.span_id and s.finished_on = c.finished_on;
    get diagnostics v_gone = row_count;
    v_room := v_room - v_gone;
    v_counts := v_counts || jsonb_build_object('activity', v_gone);
  end if;
  if v_room > 0 then
    -- Few: by day, method and model.
    delete from rowcall.spend s where s.tenant = p_tenant;
    get diagnostics v_gone = row_count;
    v_counts := v_counts || jsonb_build_object('spend', coalesce((v_counts ->> 'spend')::bigint, 0) + v_gone);
    -- By queue and lane; by login.
    delete from rowcall.set_aside a where a.tenant = p_tenant;
    delete from rowcall.tally t where t.tenant = p_tenant;
    delete from rowcall.turn t where t.tenant = p_tenant;
    get diagnostics v_gone = row_count;
    v_counts := v_counts || jsonb_build_object('turns', v_gone);
    delete from rowcall.tenant_reader r where r.tenant = p_tenant;
    get diagnostics v_gone = row_count;
    v_counts := v_counts || jsonb_build_object('readers', v_gone);
    -- Sealed here too, for there need be no worker that does.
    perform rowcall.seal_audit(v_room);
    select e.place, e.erased, e.remains into v_erasure.audit_after, v_gone, v_unsaid
    from rowcall.erase_audit(p_tenant, v_erasure.audit_after, v_room, p_act) e;
    v_counts := v_counts || jsonb_build_object('audit', v_gone);
  end if;

  select coalesce(sum(c.value::bigint), 0) into v_gone from jsonb_each_text(v_counts) c;
  select jsonb_object_agg(c.key, coalesce((v_erasure.erased ->> c.key)::bigint, 0) + c.value::bigint) into v_counts
  from jsonb_each_text(v_counts) c
  where c.value::bigint > 0;
  v_erasure.erased := v_erasure.erased || coalesce(v_counts, '{}');
  if v_erasure.quiet_from > pg_current_xact_id() then
    -- The counter of transactions has begun anew: these tables were restored into another server.
    v_erasure.quiet_from := null;
  end if;
  phase := case
    when v_gone > 0 then 1
    when exists (select from rowcall.job j where j.tenant = p_tenant) then 2
    when exists (select from rowcall.job_history h where h.tenant = p_tenant) then 3
    when v_unsaid then 7
    when v_erasure.begun_at + p_settle > clock_timestamp() then 4
    when v_erasure.quiet_from is null or pg_snapshot_xmin(pg_current_snapshot()) < v_erasure.quiet_from then 5
    else 6
  end;
  v_erasure.quiet_from := case
    when phase = 5 then coalesce(v_erasure.quiet_from, pg_current_xact_id())
  end;
  if phase = 6 then
    v_erasure.finished_at := clock_timestamp();
    update rowcall.tenant_route r
    set paused_at = null, paused_by = null, pause_note = null, holding = false, changed_at = clock_timestamp()
    where r.tenant = p_tenant;
    perform rowcall.record_action(
      p_act, '', 'tenant.erased', 'tenants/' || p_tenant, jsonb_build_object('state', 'ERASING'),
      jsonb_build_object('state', 'ERASED', 'erasure', v_erasure.number, 'erased', v_erasure.erased)
    );
  end if;
  update rowcall.erasure e
  set
    finished_at = v_erasure.finished_at,
    erased = v_erasure.erased,
    history_after = v_erasure.history_after,
    audit_after = v_erasure.audit_after,
    quiet_from = v_erasure.quiet_from
  where e.tenant = p_tenant and e.number = v_erasure.number;
  return query
  select
    v_erasure.number, v_erasure.begun_at, v_erasure.finished_at, v_erasure.actor, v_erasure.note, v_erasure.erased,
    phase, cancelled_job_id, cancelled_state, cancelled_waiter_id, cancelled_worker_id;
end
$$;

-- Opens a tenant again whose erasure is done. False: its erasure is not, or there was none; null: it does not
-- live here.
create function rowcall.reopen_tenant(p_tenant text, p_act jsonb)
returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_state smallint;
begin
  select r.state into v_state from rowcall.tenant_route r where r.tenant = p_tenant and r.state <> 3 for update;
  if not found then
    return null;
  end if;
  if v_state <> 4 or exists (
    select from rowcall.erasure e where e.tenant = p_tenant and e.finished_at is null
  ) then
    return false;
  end if;
  update rowcall.tenant_route r set state = 1, changed_at = clock_timestamp() where r.tenant = p_tenant;
  perform rowcall.record_action(
    p_act, '', 'tenant.reopen', 'tenants/' || p_tenant, jsonb_build_object('state', 'ERASED'),
    jsonb_build_object('state', 'ACTIVE')
  );
  return true;
end
$$;

-- That a page of a tenant's data was given away; nothing where there was none.
create function rowcall.record_export(p_act jsonb, p_tenant text, p_what text, p_rows bigint)
returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  select rowcall.record_action(
    p_act, p_tenant, 'tenant.export', 'tenants/' || p_tenant, null, jsonb_build_object('of', p_what, 'rows', p_rows)
  )
  where p_rows > 0
$$;

-- A page of a tenant's keys, by method and key, behind p_method_id and p_request_id where they are not null.
create function rowcall.export_keys(
  p_tenant text, p_method_id integer, p_request_id text, p_limit integer, p_act jsonb
)
returns table (
  method_id integer, request_id text, method text, job_id uuid, expires_at timestamptz, repeated_at timestamptz
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_rows bigint;
begin
  return query
  select k.method_id, k.request_id, m.name, k.job_id, k.expires_at, k.repeated_at
  from rowcall.job_key k
  join rowcall.method m on m.method_id = k.method_id
  where k.tenant = p_tenant
    and (p_method_id is null or (k.method_id, k.request_id) > (p_method_id, p_request_id))
  order by k.tenant, k.method_id, k.request_id
  limit p_limit;
  get diagnostics v_rows = row_count;
  perform rowcall.record_export(p_act, p_tenant, 'keys', v_rows);
end
$$;

-- A page of a tenant's jobs by id, behind p_after where it is not null: live and finished ones as read_jobs has them, with their
-- payloads where that is asked for; p_limit of them at most, and no more than their contents fit into p_bytes, but one in any case. An id
-- never changes, and a job is in one of the two tables at any time: each is met once, wherever it goes meanwhile.
create function rowcall.export_jobs(
  p_tenant text, p_after uuid, p_limit integer, p_bytes bigint, p_payloads boolean, p_act jsonb
)
returns setof rowcall.job_row
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
  v_ids uuid[];
  v_rows bigint;
begin
  select array_agg(s.job_id order by s.job_id) into v_ids
  from (
    select
      c.job_id,
      sum(c.size) over (order by c.job_id) as total,
      row_number() over (order by c.job_id) as place
    from (
      (
        select
          j.job_id,
          case when p_payloads then octet_length(j.request) else 0 end + coalesce(pg_column_size(j.attempts), 0) + 500 as size
        from rowcall.job j
        where j.tenant = p_tenant and (p_after is null or j.job_id > p_after)
        order by j.tenant, j.job_id
        limit p_limit
      )
      union all
      (
        select
          h.job_id,
          case when p_payloads then octet_length(h.request) + coalesce(octet_length(h.response), 0) else 0 end
            + coalesce(pg_column_size(h.attempts), 0) + coalesce(octet_length(h.error), 0) + 500
        from rowcall.job_history h
        where h.tenant = p_tenant and (p_after is null or h.job_id > p_after)
        order by h.tenant, h.job_id
        limit p_limit
      )
    ) c
    order by c.job_id
    limit p_limit
  ) s
  where s.total <= p_bytes or s.place = 1;
  return query
  select r.*
  from rowcall.read_jobs(array_fill(p_tenant, array[coalesce(cardinality(v_ids), 0)]), v_ids, p_payloads, p_payloads) r
  order by r.job_id;
  get diagnostics v_rows = row_count;
  perform rowcall.record_export(p_act, p_tenant, case when p_payloads then 'jobs with payloads' else 'jobs' end, v_rows);
end
$$;

-- A page of what a tenant's calls of models and providers cost, by job, lease and call.
create function rowcall.export_spend(
  p_tenant text, p_job_id uuid, p_lease bigint, p_call integer, p_limit integer, p_act jsonb
)
returns table (
  job_id uuid, lease bigint, call integer, method text, kind smallint, provider text, model text, spent_at timestamptz,
  latency interval, input_tokens bigint, output_tokens bigint, cost numeric, currency text, verdict text, trace_id uuid
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_rows bigint;
begin
  return query
  select
    s.job_id, s.lease, s.call, m.name, s.kind, s.provider, s.model, s.spent_at, s.latency, s.input_tokens, s.output_tokens,
    s.cost, s.currency, s.verdict, s.trace_id
  from rowcall.spend_entry s
  join rowcall.method m on m.method_id = s.method_id
  where s.tenant = p_tenant
    and (p_job_id is null or (s.job_id, s.lease, s.call) > (p_job_id, p_lease, p_call))
  order by s.tenant, s.job_id, s.lease, s.call
  limit p_limit;
  get diagnostics v_rows = row_count;
  perform rowcall.record_export(p_act, p_tenant, 'spend', v_rows);
end
$$;

-- A page of the sums of that, from a day on, the first p_skip of that day left out.
create function rowcall.export_spend_sums(p_tenant text, p_day date, p_skip integer, p_limit integer, p_act jsonb)
returns table (
  day date, method text, kind smallint, provider text, model text, currency text, calls bigint, input_tokens numeric,
  output_tokens numeric, cost numeric
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_rows bigint;
begin
  return query
  select
    s.day, m.name, s.kind, s.provider, s.model, s.currency, sum(s.calls)::bigint, sum(s.input_tokens), sum(s.output_tokens),
    sum(s.cost)
  from rowcall.spend s
  join rowcall.method m on m.method_id = s.method_id
  where s.tenant = p_tenant and (p_day is null or s.day >= p_day)
  group by s.day, s.method_id, m.name, s.kind, s.provider, s.model, s.currency
  order by s.day, s.method_id, s.kind, s.provider, s.model, s.currency
  offset p_skip
  limit p_limit;
  get diagnostics v_rows = row_count;
  perform rowcall.record_export(p_act, p_tenant, 'spend sums', v_rows);
end
$$;

-- A page of a tenant's spans, by trace and span.
create function rowcall.export_activity(
  p_tenant text, p_trace_id uuid, p_span_id bigint, p_limit integer, p_act jsonb
)
returns table (
  trace_id uuid, span_id bigint, parent_span_id bigint, kind smallint, status smallint, started_at timestamptz,
  duration interval, name text, message text, attributes jsonb
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_rows bigint;
begin
  return query
  select
    s.trace_id, s.span_id, s.parent_span_id, s.kind, s.status, s.started_at, s.duration, s.name, s.message, s.attributes
  from rowcall.activity s
  where s.tenant = p_tenant and (p_trace_id is null or (s.trace_id, s.span_id) > (p_trace_id, p_span_id))
  order by s.tenant, s.trace_id, s.span_id
  limit p_limit;
  get diagnostics v_rows = row_count;
  perform rowcall.record_export(p_act, p_tenant, 'activity', v_rows);
end
$$;

-- A page of what a tenant's audit says, the earliest first, behind an id, and up to one, for each page adds to it.
create function rowcall.export_audit(p_tenant text, p_after bigint, p_until bigint, p_limit integer, p_act jsonb)
returns table (
  id bigint, place bigint, hash bytea, at timestamptz, actor text, credential text, roles text, action text, target text,
  before text, after text, reason text, trace_id text
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_rows bigint;
begin
  return query
  select
    a.id, s.place, s.hash, a.at, a.actor, a.credential, a.roles, a.action, a.target, a.before, a.after, a.reason, a.trace_id
  from rowcall.audit a
  left join rowcall.audit_seal s on s.tenant = a.tenant and s.id = a.id
  where a.tenant = p_tenant and a.id > p_after and a.id <= p_until
  order by a.tenant, a.id
  limit p_limit;
  get diagnostics v_rows = row_count;
  perform rowcall.record_export(p_act, p_tenant, 'audit', v_rows);
end
$$;

-- The incidents that one of a tenant's jobs was the last to meet, by fingerprint: what of them is the tenant's.
create function rowcall.export_incidents(p_tenant text, p_after text, p_limit integer, p_act jsonb)
returns table (fingerprint text, service text, method text, code smallint, kind text, last_at timestamptz, trace_id text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_rows bigint;
begin
  return query
  select i.fingerprint, i.service, i.method, i.code, i.kind, i.last_at, i.trace_id
  from rowcall.incident i
  where i.trace_id ~ '^[0-9a-f]{32}$'
    and (p_after is null or i.fingerprint > p_after)
    and (
      exists (select from rowcall.job_history h where h.trace_id = i.trace_id::uuid and h.tenant = p_tenant)
      -- Live jobs have no index of traces: they are looked through once.
      or i.trace_id in (
        select replace(j.trace_id::text, '-', '') from rowcall.job j where j.tenant = p_tenant and j.trace_id is not null
      )
    )
  order by i.fingerprint
  limit p_limit;
  get diagnostics v_rows = row_count;
  perform rowcall.record_export(p_act, p_tenant, 'incidents', v_rows);
end
$$;

grant execute on function
  rowcall.find_tenants, rowcall.count_live, rowcall.count_erasable, rowcall.tenant_tables, rowcall.erase_tenant,
  rowcall.reopen_tenant, rowcall.export_keys, rowcall.export_jobs, rowcall.export_spend, rowcall.export_spend_sums,
  rowcall.export_activity, rowcall.export_audit, rowcall.export_incidents
to rowcall_gateway;
grant select on rowcall.erasure to rowcall_auditor;
