-- What people and dashboards read by SQL. Who may is decided by who is logged in (session_user),
-- never by a setting that the session could change: docs/adr/0026.
set local role rowcall_owner;

-- Which tenants a login may read that has rowcall_tenant_reader.
create table rowcall.tenant_reader (
  -- As it logs in. By name, which a dump keeps: forbid_reader before the login is dropped.
  login text not null,
  tenant text not null,
  primary key (login, tenant)
);

-- The jobs of those tenants, as rowcall.jobs has them. A barrier: no condition of the reader's is
-- tried on a row that is not his. The tenants as an array: they are found first, and rows by them.
create view rowcall.tenant_jobs with (security_barrier) as
select
  j.name, j.tenant, j.job_id, j.method, j.queue, j.state, j.priority, j.lane, j.held, j.attempt, j.max_attempts,
  j.lost, j.lost_alone, j.replays, j.actor, j.request_id, j.trace_id, j.parent, j.labels, j.progress,
  j.progress_message, j.created_at, j.deadline, j.run_at, j.ready_at, j.started_at, j.finished_at,
  j.cancel_requested_at, j.worker, j.error_code, j.error_reason, j.error_message, j.error_fingerprint, j.resolved_at,
  j.resolved_by, j.resolve_note, j.request_bytes, j.response_bytes,
  -- Where a handler raised is for operators.
  (
    select jsonb_agg(a.attempt - 'location' order by a.place)
    from jsonb_array_elements(j.attempts) with ordinality as a (attempt, place)
  ) as attempts
from rowcall.jobs j
where j.tenant = any (array(select r.tenant from rowcall.tenant_reader r where r.login = session_user));

-- Lets a login read a tenant's jobs, or no longer. For operators (members of the owner).
create function rowcall.allow_reader(p_login text, p_tenant text)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from pg_roles r where r.rolname = p_login) then
    raise exception 'There is no login %.', coalesce(quote_literal(p_login), 'null')
      using errcode = 'undefined_object', hint = 'Create it first. It is the name that it logs in with, as pg_roles has it.';
  end if;
  if not pg_has_role(p_login, 'rowcall_tenant_reader', 'member') then
    raise exception 'The login % may read no tenant at all.', quote_literal(p_login)
      using errcode = 'object_not_in_prerequisite_state', hint = format('First: grant rowcall_tenant_reader to %I;', p_login);
  end if;
  if p_tenant is null or p_tenant !~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$' then
    raise exception '% is no tenant.', coalesce(quote_literal(left(p_tenant, 100)), 'null')
      using errcode = 'invalid_parameter_value', hint = 'Lower-case letters, digits and inner "-", 63 characters at most.';
  end if;
  insert into rowcall.tenant_reader (login, tenant) values (p_login, p_tenant) on conflict do nothing;
end
$$;

-- Whether it was allowed until now.
create function rowcall.forbid_reader(p_login text, p_tenant text)
returns boolean
language sql set search_path = pg_catalog, pg_temp
as $$
  with gone as (
    delete from rowcall.tenant_reader r where r.login = p_login and r.tenant = p_tenant returning 1
  )
  select exists (select from gone)
$$;

-- What rowcall_reader has: sums, and no tenant's name. The function, because what a view calls is
-- called by whoever reads it.
create function rowcall.count_queues()
returns table (
  queue text, paused_at timestamptz, ready bigint, oldest_ready_at timestamptz, held bigint, running bigint,
  scheduled bigint, capped boolean
)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select s.name, s.paused_at, s.ready, s.oldest_ready_at, s.held, s.running, s.scheduled, s.capped
  from rowcall.queue_stats(10000) s
$$;

-- The live jobs, by queue: as many as 10,000 of each kind are counted (capped).
create view rowcall.queue_totals as select c.* from rowcall.count_queues() c;

-- The finished ones by day (UTC), queue and method. It counts when it is read: name the day.
create view rowcall.finished_totals as
select
  h.finished_on as day,
  q.name as queue,
  m.name as method,
  rowcall.state_name(h.state) as state,
  count(*) as jobs
from rowcall.job_history h
join rowcall.method m on m.method_id = h.method_id
join rowcall.queue q on q.queue_id = h.queue_id
group by h.finished_on, q.name, m.name, h.state;
