-- What went wrong by our own fault, for triage: a row for each kind of failure, with how often
-- it was met. Nothing of it is of a tenant's but the trace id of the last time.
set local role rowcall_owner;

create table rowcall.incident (
  -- Of service, method, code, types of the exceptions and functions: rowcall.incidents.
  fingerprint text primary key,
  service text not null,
  method text not null,
  code smallint not null,
  kind text not null,
  location text not null,
  count bigint not null,
  first_at timestamptz not null,
  last_at timestamptz not null,
  trace_id text,
  first_version text not null,
  last_version text not null,
  -- When somebody said that it is done with: met later, it has regressed.
  resolved_at timestamptz,
  resolved_by text,
  resolve_note text,
  regressions integer not null default 0
);
create index incident_last on rowcall.incident (last_at);
create index incident_trace on rowcall.incident (trace_id) where trace_id is not null;

-- Adds what a process has met, each a JSON object with how many seconds ago that was. Answers
-- with those that were resolved and are back. What nobody met for 90 days is forgotten.
create function rowcall.record_incidents(p_incidents jsonb)
returns table (fingerprint text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  delete from rowcall.incident i where i.last_at < clock_timestamp() - interval '90 days';
  return query
  with told as (
    select t.*
    from jsonb_to_recordset(p_incidents) as t (
      fingerprint text, service text, method text, code smallint, kind text, location text, count bigint, first double precision,
      last double precision, trace_id text, version text
    )
  ),
  known as materialized (
    -- In one order, so that two that tell of the same wait for each other and no more.
    select i.fingerprint, i.resolved_at > i.last_at as resolved
    from rowcall.incident i
    where i.fingerprint in (select t.fingerprint from told t)
    order by i.fingerprint
    for update
  ),
  written as (
    insert into rowcall.incident as i (
      fingerprint, service, method, code, kind, location, count, first_at, last_at, trace_id, first_version, last_version
    )
    select
      t.fingerprint, t.service, t.method, t.code, t.kind, t.location, t.count,
      clock_timestamp() - t.first * interval '1 second', clock_timestamp() - t.last * interval '1 second', t.trace_id,
      t.version, t.version
    from told t
    left join known k on k.fingerprint = t.fingerprint
    order by t.fingerprint
    on conflict (fingerprint) do update
    set
      count = i.count + excluded.count,
      location = excluded.location,
      last_at = greatest(i.last_at, excluded.last_at),
      trace_id = excluded.trace_id,
      last_version = excluded.last_version,
      regressions = i.regressions
        + case when i.resolved_at >= i.last_at and excluded.last_at > i.resolved_at then 1 else 0 end
    returning i.fingerprint, i.last_at, i.resolved_at
  )
  select w.fingerprint
  from written w
  join known k on k.fingerprint = w.fingerprint
  where k.resolved and w.last_at > w.resolved_at;
end
$$;

-- The incidents that were met last, or one.
create function rowcall.list_incidents(p_fingerprint text, p_limit integer)
returns table (
  fingerprint text, service text, method text, code smallint, kind text, location text, count bigint, first_at timestamptz,
  last_at timestamptz, trace_id text, first_version text, last_version text, resolved_at timestamptz, resolved_by text,
  resolve_note text, regressions integer
)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select
    i.fingerprint, i.service, i.method, i.code, i.kind, i.location, i.count, i.first_at, i.last_at, i.trace_id,
    i.first_version, i.last_version, i.resolved_at, i.resolved_by, i.resolve_note, i.regressions
  from rowcall.incident i
  where p_fingerprint = '' or i.fingerprint = p_fingerprint
  order by i.last_at desc
  limit p_limit
$$;

-- Says that an incident is done with; recorded. False: there is none here.
create function rowcall.resolve_incident(p_fingerprint text, p_by text, p_note text, p_act jsonb)
returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_before timestamptz;
begin
  select i.resolved_at into v_before from rowcall.incident i where i.fingerprint = p_fingerprint for update;
  if not found then
    return false;
  end if;
  update rowcall.incident i
  set resolved_at = clock_timestamp(), resolved_by = p_by, resolve_note = p_note
  where i.fingerprint = p_fingerprint;
  perform rowcall.record_action(
    rowcall.with_reason(p_act, p_note), '', 'incident.resolve', 'incidents/' || p_fingerprint,
    jsonb_build_object('resolved', v_before is not null), jsonb_build_object('resolved', true)
  );
  return true;
end
$$;

grant execute on function rowcall.record_incidents to rowcall_gateway, rowcall_worker;
grant execute on function rowcall.list_incidents, rowcall.resolve_incident to rowcall_gateway;
grant select on rowcall.incident to rowcall_auditor;
