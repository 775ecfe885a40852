-- Actions: what belongs to one trace, as the nodes of a tree, for the RPC and for people who read by SQL. The tree is in the rows of
-- jobs, spend and the audit; spans, where there are any, add to it. docs/adr/0043.
set local role rowcall_owner;

-- Keeps spans, an object each: ids in hex digits, times in seconds, since the epoch and of how long. Of a
-- tenant that does not live here, or is erased, nothing is kept. It need not wait for a standby. How many were kept.
create function rowcall.record_activity(p_spans jsonb)
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows bigint;
begin
  perform rowcall.without_standby();
  insert into rowcall.activity (
    tenant, trace_id, span_id, finished_on, kind, status, parent_span_id, started_at, duration, name, message, attributes
  )
  select
    s.tenant, s.trace, ('x' || s.span)::bit(64)::bigint, (clock_timestamp() at time zone 'UTC')::date, s.kind, s.status,
    ('x' || s.parent)::bit(64)::bigint, to_timestamp(s.started), s.took * interval '1 second', s.name, s.message, s.attributes
  from jsonb_to_recordset(p_spans) as s (
    tenant text, trace uuid, span text, parent text, kind smallint, status smallint,
    started double precision, took double precision, name text, message text, attributes jsonb
  )
  where exists (select from rowcall.tenant_route r where r.tenant = s.tenant and r.state in (1, 2))
  on conflict do nothing;
  get diagnostics v_rows = row_count;
  return v_rows;
end
$$;

-- A span's id as people and other systems have it: 16 hex digits.
create function rowcall.span_name(p_span_id bigint)
returns text
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
  select lpad(to_hex(p_span_id), 16, '0')
$$;

-- A google.rpc.Code by its word; null where it is none.
create function rowcall.code_number(p_name text)
returns integer
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
  select n from generate_series(0, 16) as n where rowcall.code_name(n) = p_name
$$;

-- The lowest UUIDv7 of a time.
create function rowcall.uuid_at(p_time timestamptz)
returns uuid
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
  select (lpad(to_hex(floor(extract(epoch from p_time) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid
$$;

-- A node of an action's tree. node: what names it; parent: what it is below, null where that is not in the tree. job_id: of the job
-- that it belongs to. code: google.rpc.Code.
create type rowcall.action_node as (
  tenant text, node text, parent text, kind text, name text, started_at timestamptz, ended_at timestamptz, status text,
  code integer, message text, attributes jsonb, job_id uuid
);

-- The jobs of an action, p_limit at most: those of a trace, or, where p_trace_id is null, of one of its jobs. Of these tenants
-- (null: whosever). A job without a trace has those above and below it. Live ones have no index by trace: they are looked through, the
-- newest first, for p_patience at the longest; whole: that was enough. Those that a job found otherwise submitted are found
-- in any case, and so is what submitted it. trace_id: of them all.
create function rowcall.find_action(
  p_tenant text[], p_trace_id uuid, p_job_id uuid, p_limit integer, p_patience interval
)
returns table (
  tenant text, job_id uuid, parent_job_id uuid, method text, state smallint, created_at timestamptz,
  finished_at timestamptz, trace_id uuid, whole boolean
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_trace_id uuid := p_trace_id;
  v_tenant text;
  v_above record;
  v_parent uuid;
  v_root uuid := p_job_id;
  v_steps integer := 0;
  v_whole boolean := true;
  v_end timestamptz := clock_timestamp() + p_patience;
  v_before uuid;
  v_seen integer;
  v_found uuid[];
  -- The live ones, each with its tenant.
  v_tenants text[] := '{}';
  v_ids uuid[] := '{}';
  v_level uuid[];
  v_since date;
  v_until date := (statement_timestamp() at time zone 'UTC')::date + 1;
begin
  if p_job_id is not null then
    v_tenant := p_tenant[1];
    v_parent := p_job_id;
    -- Up to what submitted all of it: of a job without a trace the children have one each.
    while v_parent is not null and v_steps < 100 loop
      v_since := rowcall.earliest_day(array[v_parent]);
      select f.job_id, f.trace_id, f.parent_job_id into v_above
      from (
        select j.job_id, j.trace_id, j.parent_job_id from rowcall.job j where j.tenant = v_tenant and j.job_id = v_parent
        union all
        select h.job_id, h.trace_id, h.parent_job_id
        from rowcall.job_history h
        where h.tenant = v_tenant and h.job_id = v_parent and h.finished_on between v_since and v_until
      ) f
      limit 1;
      exit when not found;
      v_root := v_above.job_id;
      v_trace_id := v_above.trace_id;
      v_parent := v_above.parent_job_id;
      v_steps := v_steps + 1;
    end loop;
    if v_steps = 0 then
      -- It is gone; what it spent is not.
      select e.trace_id into v_trace_id
      from rowcall.spend_entry e
      where e.tenant = v_tenant and e.job_id = p_job_id
      limit 1;
    end if;
    v_tenants := array[v_tenant];
    v_ids := array[p_job_id];
  end if;

  if v_trace_id is null then
    if p_job_id is null then
      return;
    end if;
    v_since := rowcall.earliest_day(array[v_root]);
    v_ids := array[v_root];
    v_level := v_ids;
    while cardinality(v_level) > 0 and cardinality(v_ids) <= p_limit loop
      v_level := array(
        select c.job_id
        from unnest(v_level) as a (job_id)
        cross join lateral (
          select j.job_id from rowcall.job j where j.tenant = v_tenant and j.parent_job_id = a.job_id
          union all
          select h.job_id
          from rowcall.job_history h
          where h.tenant = v_tenant and h.parent_job_id = a.job_id and h.finished_on between v_since and v_until
        ) c
        limit p_limit
      );
      v_ids := v_ids || v_level;
    end loop;
    return query
    select v_tenant, f.job_id, f.parent_job_id, m.name, f.state, f.created_at, f.finished_at, null::uuid, true
    from (
      select i.job_id from unnest(v_ids) as i (job_id) limit p_limit
    ) a
    cross join lateral (
      select j.job_id, j.parent_job_id, j.method_id, j.state, j.created_at, null::timestamptz as finished_at
      from rowcall.job j
      where j.tenant = v_tenant and j.job_id = a.job_id
      union all
      select h.job_id, h.parent_job_id, h.method_id, h.state, h.created_at, h.finished_at
      from rowcall.job_history h
      where h.tenant = v_tenant and h.job_id = a.job_id and h.finished_on between v_since and v_until
      limit 1
    ) f
    join rowcall.method m on m.method_id = f.method_id;
    return;
  end if;

  if p_tenant is null then
    select coalesce(array_agg(j.tenant), '{}'), coalesce(array_agg(j.job_id), '{}') into v_tenants, v_ids
    from (select j.tenant, j.job_id from rowcall.job j where j.trace_id = v_trace_id limit p_limit) j;
  else
    foreach v_tenant in array p_tenant loop
      v_before := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
      loop
        select
          count(*), (array_agg(s.job_id))[count(*)], coalesce(array_agg(s.job_id) filter (where s.trace_id = v_trace_id), '{}')
        into v_seen, v_before, v_found
        from (
          select j.job_id, j.trace_id
          from rowcall.job j
          where j.tenant = v_tenant and j.job_id < v_before
          order by j.tenant desc, j.job_id desc
          limit 500
        ) s;
        v_ids := v_ids || v_found;
        v_tenants := v_tenants || array_fill(v_tenant, array[cardinality(v_found)]);
        exit when v_seen < 500 or cardinality(v_ids) > p_limit;
        if clock_timestamp() > v_end then
          v_whole := false;
          exit;
        end if;
      end loop;
    end loop;
  end if;

  return query
  with recursive
  done as materialized (
    select h.tenant, h.job_id, h.parent_job_id, h.method_id, h.state, h.created_at, h.finished_at
    from rowcall.job_history h
    where h.trace_id = v_trace_id and (p_tenant is null or h.tenant = any (p_tenant))
    limit p_limit
  ),
  -- Not p_job_id again where it was found among the others.
  known as materialized (
    select distinct i.tenant, i.job_id from unnest(v_tenants, v_ids) as i (tenant, job_id)
  ),
  -- What is live and was not looked through: what submitted one of them, and what they submitted.
  above as (
    select d.tenant, d.parent_job_id as job_id from done d where not v_whole and d.parent_job_id is not null
    union
    select k.tenant, k.job_id from known k where not v_whole
    union
    select a.tenant, j.parent_job_id
    from above a
    join rowcall.job j on j.tenant = a.tenant and j.job_id = a.job_id
    where j.parent_job_id is not null
  ),
  below as (
    select d.tenant, d.job_id from done d where not v_whole
    union
    select a.tenant, a.job_id from above a
    union
    select b.tenant, j.job_id
    from below b
    join rowcall.job j on j.tenant = b.tenant and j.parent_job_id = b.job_id
  ),
  live as (
    select k.tenant, k.job_id from known k
    union
    select b.tenant, b.job_id from (select b.tenant, b.job_id from below b limit p_limit) b
  )
  select f.tenant, f.job_id, f.parent_job_id, m.name, f.state, f.created_at, f.finished_at, v_trace_id, v_whole
  from (
    select d.tenant, d.job_id, d.parent_job_id, d.method_id, d.state, d.created_at, d.finished_at from done d
    union all
    select j.tenant, j.job_id, j.parent_job_id, j.method_id, j.state, j.created_at, null::timestamptz
    from live l
    cross join lateral (
      select j.tenant, j.job_id, j.parent_job_id, j.method_id, j.state, j.created_at
      from rowcall.job j
      where j.tenant = l.tenant and j.job_id = l.job_id and j.trace_id = v_trace_id
      limit 1
    ) j
  ) f
  join rowcall.method m on m.method_id = f.method_id
  limit p_limit;
end
$$;

-- The nodes of jobs, and of what else belongs to their trace (null: there is none): what was spent, unless by one of p_hidden; what
-- operators did (p_audit); of what belongs to no tenant (p_system) what they did, and failures of ours; spans. Of these tenants
-- alone. p_limit of each kind at most.
create function rowcall.action_nodes(
  p_job_tenant text[], p_job_id uuid[], p_hidden uuid[], p_tenant text[], p_trace_id uuid, p_audit boolean,
  p_system boolean, p_limit integer
)
returns setof rowcall.action_node
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
-- What is looked up is lateral, and limited: nothing else is a loop, for all of it may be ten thousand jobs'.
set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off
set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_since date := rowcall.earliest_day(p_job_id);
  v_until date := (statement_timestamp() at time zone 'UTC')::date + 1;
begin
  return query
  with jobs as materialized (
    select
      'tenants/' || f.tenant || '/operations/' || f.job_id as node, f.*,
      (select m.name from rowcall.method m where m.method_id = f.method_id) as method,
      (select q.name from rowcall.queue q where q.queue_id = f.queue_id) as queue,
      case
        when f.state = 3 then (select w.name from rowcall.worker w where w.worker_id = f.worker_id)
        else f.worker
      end as last_worker
    from unnest(p_job_tenant, p_job_id) as a (tenant, job_id)
    cross join lateral (
      (
        select
          j.tenant, j.job_id, j.state, j.method_id, j.queue_id, j.attempt, j.lease, j.created_at, j.run_at, j.started_at,
          null::timestamptz as finished_at, j.worker_id, null::text as worker, null::text as worker_version, j.actor,
          j.request_id, j.parent_span_id, j.parent_job_id, j.attempts, null::text as span_id, null::bytea as error,
          null::integer as error_code, null::text as error_message, null::text as location, j.progress_message
        from rowcall.job j
        where j.tenant = a.tenant and j.job_id = a.job_id
        limit 1
      )
      union all
      (
        select
          h.tenant, h.job_id, h.state, h.method_id, h.queue_id, h.attempt, h.lease, h.created_at, h.run_at, h.started_at,
          h.finished_at, h.worker_id, h.worker, h.worker_version, h.actor,
          h.request_id, h.parent_span_id, h.parent_job_id, h.attempts, h.span_id, h.error,
          h.error_code, h.error_message, h.location, h.progress_message
        from rowcall.job_history h
        where h.tenant = a.tenant and h.job_id = a.job_id and h.finished_on between v_since and v_until
        limit 1
      )
    ) f
  ),
  -- Those that ended before the last one are in the list; of the last one, and of one that runs, the row's columns tell.
  attempts as materialized (
    select
      j.tenant, j.job_id, j.node as job, a.place, coalesce(a.kept ->> 'span', j.node || '#' || (a.kept ->> 'lease')) as node,
      (a.kept ->> 'attempt')::integer as attempt, (a.kept ->> 'lease')::bigint as lease, a.kept ->> 'worker' as worker,
      a.kept ->> 'version' as version, (a.kept ->> 'started')::timestamptz as started_at,
      (a.kept ->> 'ended')::timestamptz as ended_at, a.kept ->> 'outcome' as outcome,
      rowcall.code_number(a.kept ->> 'code') as code, a.kept ->> 'message' as message, a.kept ->> 'reason' as reason,
      a.kept ->> 'location' as location
    from jobs j
    cross join lateral jsonb_array_elements(rowcall.attempts_in_words(j.attempts)) with ordinality as a (kept, place)
    union all
    select
      j.tenant, j.job_id, j.node, 1000, coalesce(j.span_id, j.node || '#' || j.lease), j.attempt, j.lease, j.last_worker,
      j.worker_version, j.started_at, j.finished_at,
      case
        when j.finished_at is null then 'RUNNING'
        when rowcall.error_reason(j.error) = 'WORKER_LOST' then 'LOST'
        when j.state = 14 then 'FAILED'
        else rowcall.state_name(j.state)
      end,
      j.error_code, j.error_message, rowcall.error_reason(j.error), j.location
    from jobs j
    where j.state = 3 or j.finished_at is not null and j.last_worker is not null
  ),
  -- A job waits until its first attempt, between two, and, where it did not end with one, behind the last one.
  waits as (
    select a.tenant, a.job_id, a.job, a.attempt, a.after, a.began_at, a.started_at as ended_at, a.due_at
    from (
      select
        t.tenant, t.job_id, t.job, t.attempt, t.started_at, lag(t.outcome) over job as after,
        coalesce(lag(t.ended_at) over job, j.created_at) as began_at,
        -- Of the others it is not kept until when they were put off.
        case when t.place = 1000 then j.run_at end as due_at
      from attempts t
      join jobs j on j.tenant = t.tenant and j.job_id = t.job_id
      window job as (partition by t.tenant, t.job_id order by t.place)
    ) a
    where a.started_at > a.began_at
    union all
    select j.tenant, j.job_id, j.node, j.attempt + 1, l.outcome, coalesce(l.ended_at, j.created_at), j.finished_at, j.run_at
    from jobs j
    left join (
      select distinct on (t.tenant, t.job_id) t.tenant, t.job_id, t.outcome, t.ended_at
      from attempts t
      order by t.tenant, t.job_id, t.place desc
    ) l on l.tenant = j.tenant and l.job_id = j.job_id
    where j.state in (1, 2, 4) or j.finished_at is not null and j.last_worker is null
  ),
  spans as materialized (
    -- One that was told twice around midnight is one.
    select distinct on (s.tenant, s.span_id)
      s.tenant, rowcall.span_name(s.span_id) as node, rowcall.span_name(s.parent_span_id) as parent, s.status, s.started_at,
      s.duration, s.name, s.message, s.attributes
    from unnest(p_tenant) as a (tenant)
    cross join lateral (
      select * from rowcall.activity s where s.tenant = a.tenant and s.trace_id = p_trace_id limit p_limit
    ) s
  ),
  spent as materialized (
    (
      select e.*
      from unnest(p_job_tenant, p_job_id) as a (tenant, job_id)
      cross join lateral (
        select * from rowcall.spend_entry e where e.tenant = a.tenant and e.job_id = a.job_id limit p_limit
      ) e
      limit p_limit
    )
    union all
    (
      -- Of jobs that are gone.
      select e.*
      from rowcall.spend_entry e
      where e.trace_id = p_trace_id
        and e.tenant = any (p_tenant)
        and not exists (
          select from unnest(p_hidden || p_job_id) as k (job_id) where k.job_id = e.job_id
        )
      limit p_limit
    )
  ),
  -- What an operator did in this trace, and to one of its jobs in any.
  done as (
    select d.*
    from (
      (
        select a.*
        from rowcall.audit a
        where a.trace_id = replace(p_trace_id::text, '-', '')
          and (a.tenant = any (p_tenant) and p_audit or a.tenant = '' and p_system)
        limit p_limit
      )
      union
      (
        select a.*
        from jobs j
        cross join lateral (
          select * from rowcall.audit a where a.tenant = j.tenant and a.target = j.node limit p_limit
        ) a
        where p_audit
      )
    ) d
  ),
  nodes as materialized (
    select
      j.tenant, j.node,
      -- What its parent's handler submitted is below the attempt; what follows its end, below the job.
      array[
        a.node, 'tenants/' || j.tenant || '/operations/' || j.parent_job_id, rowcall.span_name(j.parent_span_id)
      ] as parents,
      'JOB' as kind, j.method as name, j.created_at as started_at, j.finished_at as ended_at,
      rowcall.state_name(j.state) as status, coalesce(j.error_code, 0) as code, j.error_message as message,
      jsonb_build_object(
        'messaging.destination.name', j.queue, 'rowcall.attempt', j.attempt, 'rowcall.actor', j.actor,
        'rowcall.request_id', j.request_id, 'rowcall.reason', rowcall.error_reason(j.error)
      ) as attributes,
      j.job_id
    from jobs j
    left join attempts a
      on a.tenant = j.tenant and a.job_id = j.parent_job_id and a.node = rowcall.span_name(j.parent_span_id)
    union all
    select
      w.tenant, w.job || '#wait-' || w.attempt || '-' || (extract(epoch from w.began_at) * 1000000)::bigint, array[w.job],
      'WAIT', 'attempt ' || w.attempt, w.began_at, w.ended_at,
      case
        when w.after = 'RETRIED' then 'BACKOFF'
        when w.after = 'SNOOZED' then 'SNOOZED'
        when w.after is not null then 'AGAIN'
        when w.due_at > w.began_at + interval '1 second' then 'TIME'
        else 'TURN'
      end,
      0, null, jsonb_build_object('rowcall.attempt', w.attempt), w.job_id
    from waits w
    union all
    select
      a.tenant, a.node, array[a.job], 'ATTEMPT', coalesce(a.worker, ''), a.started_at, a.ended_at, a.outcome,
      coalesce(a.code, 0), a.message,
      coalesce(s.attributes, '{}')
        || jsonb_build_object(
          'rowcall.attempt', a.attempt, 'rowcall.lease', a.lease, 'rowcall.reason', a.reason,
          'rowcall.location', a.location, 'rowcall.worker.version', a.version
        ),
      a.job_id
    from attempts a
    left join spans s on s.tenant = a.tenant and s.node = a.node
    union all
    select
      e.tenant, coalesce(s.node, o.job || '#' || e.lease || '/' || e.call), array[s.parent, t.node, o.job],
      case e.kind when 1 then 'MODEL_CALL' else 'PROVIDER_CALL' end, concat_ws(' ', e.provider, nullif(e.model, '')),
      coalesce(s.started_at, least(e.spent_at, t.ended_at) - coalesce(e.latency, interval '0')),
      coalesce(s.started_at + s.duration, least(e.spent_at, t.ended_at)), e.verdict,
      case when s.status = 2 then 2 else 0 end, s.message,
      coalesce(s.attributes, '{}')
        || jsonb_build_object(
          'gen_ai.provider.name', e.provider, 'gen_ai.request.model', nullif(e.model, ''),
          'gen_ai.usage.input_tokens', e.input_tokens, 'gen_ai.usage.output_tokens', e.output_tokens,
          'rowcall.cost.amount', trim_scale(e.cost)::text, 'rowcall.cost.currency', e.currency, 'rowcall.lease', e.lease,
          'rowcall.call', e.call
        ),
      e.job_id
    from spent e
    cross join lateral (select 'tenants/' || e.tenant || '/operations/' || e.job_id as job) o
    left join attempts t on t.tenant = e.tenant and t.job_id = e.job_id and t.lease = e.lease
    left join spans s
      on s.attributes ->> 'rowcall.operation' = o.job
      and s.attributes ->> 'rowcall.lease' = e.lease::text
      and s.attributes ->> 'rowcall.call' = e.call::text
    union all
    select
      nullif(d.tenant, ''), 'audit#' || d.tenant || '#' || d.id, array[d.target], 'OPERATOR', d.action, d.at, d.at, 'DONE', 0,
      d.reason,
      jsonb_build_object(
        'rowcall.actor', d.actor, 'rowcall.operation', d.target, 'rowcall.before', d.before, 'rowcall.after', d.after
      ),
      null
    from done d
    union all
    select
      null, 'incident#' || i.fingerprint, '{}', 'INCIDENT', i.kind, i.last_at, i.last_at,
      case when i.resolved_at >= i.last_at then 'RESOLVED' else 'OPEN' end, i.code, i.method,
      jsonb_build_object(
        'rowcall.fingerprint', i.fingerprint, 'service.name', i.service, 'rowcall.location', i.location
      ),
      null
    from rowcall.incident i
    where p_system and i.trace_id = replace(p_trace_id::text, '-', '')
    union all
    select
      s.tenant, s.node, array[s.parent], 'SPAN', s.name, s.started_at, s.started_at + s.duration,
      (array['UNSET', 'OK', 'ERROR'])[s.status + 1],
      case when s.status = 2 then coalesce(rowcall.code_number(s.attributes ->> 'rpc.response.status_code'), 2) else 0 end,
      s.message, s.attributes, null
    from spans s
    where not exists (select from attempts a where a.tenant = s.tenant and a.node = s.node)
      and not exists (
        select
        from spent e
        where s.attributes ->> 'rowcall.call' = e.call::text
          and s.attributes ->> 'rowcall.lease' = e.lease::text
          and s.attributes ->> 'rowcall.operation' = 'tenants/' || e.tenant || '/operations/' || e.job_id
      )
  )
  select
    n.tenant, n.node, coalesce(a.node, b.node, c.node), n.kind, n.name, n.started_at, n.ended_at, n.status, n.code, n.message,
    jsonb_strip_nulls(n.attributes), n.job_id
  from nodes n
  left join (select distinct k.node from nodes k) a on a.node = n.parents[1] and a.node <> n.node
  left join (select distinct k.node from nodes k) b on b.node = n.parents[2] and b.node <> n.node
  left join (select distinct k.node from nodes k) c on c.node = n.parents[3] and c.node <> n.node
  order by n.started_at, n.node;
end
$$;

-- An action as a tree, whole: for auditors, and of the tenants that a login may read. In the order of time.
create function rowcall.action(p_trace_id uuid)
returns setof rowcall.action_node
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenants text[];
  v_ids uuid[];
begin
  select coalesce(array_agg(f.tenant), '{}'), coalesce(array_agg(f.job_id), '{}') into v_tenants, v_ids
  from rowcall.find_action(null, p_trace_id, null, 10000, '1 minute') f;
  return query
  select n.*
  from rowcall.action_nodes(
    v_tenants, v_ids, '{}', array(select r.tenant from rowcall.tenant_route r), p_trace_id, true, true, 10000
  ) n;
end
$$;

create function rowcall.tenant_action(p_trace_id uuid)
returns setof rowcall.action_node
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_own text[] := array(select r.tenant from rowcall.tenant_reader r where r.login = session_user);
  v_tenants text[];
  v_ids uuid[];
begin
  select coalesce(array_agg(f.tenant), '{}'), coalesce(array_agg(f.job_id), '{}') into v_tenants, v_ids
  from rowcall.find_action(v_own, p_trace_id, null, 10000, '1 minute') f;
  return query
  select
    n.tenant, n.node, n.parent, n.kind, n.name, n.started_at, n.ended_at, n.status, n.code, n.message,
    -- Where a handler raised is for operators.
    n.attributes - 'rowcall.location', n.job_id
  from rowcall.action_nodes(v_tenants, v_ids, '{}', v_own, p_trace_id, false, false, 10000) n;
end
$$;

-- A page of a tenant's actions, newest first: jobs that no other caused, below p_before where it is not null, that match what else is
-- not null. Where few match, no more than p_look are looked at. The last row has no job and says down to which one was looked, null where
-- there are no more. costs: what all of the action cost, an object for each currency.
create function rowcall.list_actions(
  p_tenant text, p_before uuid, p_from timestamptz, p_to timestamptz, p_states smallint[], p_method text,
  p_min_duration interval, p_min_cost numeric, p_currency text, p_limit integer, p_look integer
)
returns table (
  job_id uuid, trace_id uuid, method text, state smallint, error_code integer, created_at timestamptz,
  finished_at timestamptz, attempts integer, costs jsonb, looked_to uuid
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_before uuid := least(
    coalesce(p_before, 'ffffffff-ffff-ffff-ffff-ffffffffffff'), coalesce(rowcall.uuid_at(p_to), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
  );
  v_from uuid := coalesce(rowcall.uuid_at(p_from), '00000000-0000-0000-0000-000000000000');
  v_since date := coalesce((p_from at time zone 'UTC')::date - 1, '-infinity');
  v_until date := (statement_timestamp() at time zone 'UTC')::date + 1;
  v_method_id integer;
  v_looked integer := 0;
  v_given integer := 0;
  v_part integer := greatest(least(p_look, 500), 1);
  v_row record;
  v_rows integer;
  v_cost numeric;
begin
  if p_method is not null then
    select m.method_id into v_method_id from rowcall.method m where m.name = p_method;
    if not found then
      v_looked := p_look;
      v_before := null;
    end if;
  end if;
  while v_before is not null and v_looked < p_look loop
    v_rows := 0;
    for v_row in
      select l.*, m.name as method
      from (
        (
          select
            j.job_id, j.parent_job_id, j.trace_id, j.method_id, j.state, null::integer as error_code, j.created_at,
            null::timestamptz as finished_at, j.attempt + j.lost as attempts
          from rowcall.job j
          where j.tenant = p_tenant and j.job_id < v_before and j.job_id >= v_from
          order by j.tenant desc, j.job_id desc
          limit v_part
        )
        union all
        (
          select
            h.job_id, h.parent_job_id, h.trace_id, h.method_id, h.state, h.error_code, h.created_at, h.finished_at,
            h.attempt + h.lost
          from rowcall.job_history h
          where h.tenant = p_tenant
            and h.job_id < v_before
            and h.job_id >= v_from
            and h.finished_on between v_since and v_until
          order by h.tenant desc, h.job_id desc
          limit v_part
        )
        order by job_id desc
        limit v_part
      ) l
      join rowcall.method m on m.method_id = l.method_id
      order by l.job_id desc
    loop
      v_rows := v_rows + 1;
      v_looked := v_looked + 1;
      v_before := v_row.job_id;
      continue when v_row.parent_job_id is not null
        or v_row.state <> all (p_states)
        or v_row.method_id <> v_method_id
        or coalesce(v_row.finished_at, clock_timestamp()) - v_row.created_at < p_min_duration;
      select
        jsonb_agg(
          jsonb_build_object(
            'currency', s.currency, 'calls', s.calls, 'input_tokens', s.input_tokens, 'output_tokens', s.output_tokens,
            'cost', s.cost::text
          )
          order by s.currency
        ),
        sum(s.cost) filter (where s.currency = p_currency)
      into costs, v_cost
      from (
        select
          coalesce(e.currency, '') as currency, count(*) as calls, coalesce(sum(e.input_tokens), 0) as input_tokens,
          coalesce(sum(e.output_tokens), 0) as output_tokens, coalesce(sum(e.cost), 0) as cost
        from (
          select e.* from rowcall.spend_entry e where e.trace_id = v_row.trace_id and e.tenant = p_tenant
          union all
          select e.*
          from rowcall.spend_entry e
          where v_row.trace_id is null and e.tenant = p_tenant and e.job_id = v_row.job_id
        ) e
        group by 1
      ) s;
      continue when coalesce(v_cost, 0) < p_min_cost;
      job_id := v_row.job_id;
      trace_id := v_row.trace_id;
      method := v_row.method;
      state := v_row.state;
      error_code := v_row.error_code;
      created_at := v_row.created_at;
      finished_at := v_row.finished_at;
      attempts := v_row.attempts;
      return next;
      v_given := v_given + 1;
      exit when v_given = p_limit;
    end loop;
    exit when v_given = p_limit;
    if v_rows < v_part then
      v_before := null;
    end if;
  end loop;
  job_id := null;
  trace_id := null;
  method := null;
  state := null;
  error_code := null;
  created_at := null;
  finished_at := null;
  attempts := null;
  costs := null;
  looked_to := v_before;
  return next;
end
$$;

grant execute on function rowcall.find_action, rowcall.action_nodes, rowcall.list_actions to rowcall_gateway;
grant execute on function rowcall.record_activity to rowcall_gateway, rowcall_worker;
grant execute on function rowcall.action to rowcall_auditor;
grant execute on function rowcall.tenant_action to rowcall_tenant_reader;
