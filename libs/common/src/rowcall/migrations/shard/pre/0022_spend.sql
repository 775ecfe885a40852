-- What calls of models and providers cost, in sums: for the RPC, for people who read by SQL, and for budgets. Booked by
-- 0009_settle; docs/adr/0040.
set local role rowcall_owner;

-- Sums of a tenant's calls, or of all tenants' (null), from a day to another (null: of thirty days, up to today); or of one job; or of one trace. By what is named in p_by:
-- tenant, day, method, provider, model; what is not is null. The dearest first, of each currency.
create function rowcall.sum_spend(
  p_tenant text, p_job_id uuid, p_trace_id uuid, p_first date, p_last date, p_method text, p_provider text, p_model text,
  p_by text[], p_limit integer
)
returns table (
  tenant text, day date, method text, provider text, model text, currency text, calls bigint, input_tokens numeric,
  output_tokens numeric, cost numeric
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
  v_method_id integer;
  v_last date := coalesce(p_last, (clock_timestamp() at time zone 'UTC')::date);
  v_first date := coalesce(p_first, v_last - 29);
begin
  if p_method is not null then
    select m.method_id into v_method_id from rowcall.method m where m.name = p_method;
    if not found then
      return;
    end if;
  end if;
  return query
  with spent as (
    select
      s.tenant, s.day, s.method_id, s.provider, s.model, s.currency, s.calls, s.input_tokens, s.output_tokens, s.cost
    from rowcall.spend s
    where p_job_id is null
      and p_trace_id is null
      and (p_tenant is null or s.tenant = p_tenant)
      and s.day >= v_first
      and s.day <= v_last
    union all
    select
      e.tenant, (e.spent_at at time zone 'UTC')::date, e.method_id, e.provider, e.model, coalesce(e.currency, ''), 1,
      coalesce(e.input_tokens, 0), coalesce(e.output_tokens, 0), coalesce(e.cost, 0)
    from rowcall.spend_entry e
    where p_job_id is not null and e.tenant = p_tenant and e.job_id = p_job_id
    union all
    select
      e.tenant, (e.spent_at at time zone 'UTC')::date, e.method_id, e.provider, e.model, coalesce(e.currency, ''), 1,
      coalesce(e.input_tokens, 0), coalesce(e.output_tokens, 0), coalesce(e.cost, 0)
    from rowcall.spend_entry e
    where p_trace_id is not null and e.trace_id = p_trace_id and (p_tenant is null or e.tenant = p_tenant)
  ),
  summed as (
    select
      case when 'tenant' = any (p_by) then s.tenant end as tenant,
      case when 'day' = any (p_by) then s.day end as day,
      case when 'method' = any (p_by) then s.method_id end as method_id,
      case when 'provider' = any (p_by) then s.provider end as provider,
      case when 'model' = any (p_by) then s.model end as model,
      s.currency,
      sum(s.calls)::bigint as calls,
      sum(s.input_tokens) as input_tokens,
      sum(s.output_tokens) as output_tokens,
      sum(s.cost) as cost
    from spent s
    where (v_method_id is null or s.method_id = v_method_id)
      and (p_provider is null or s.provider = p_provider)
      and (p_model is null or s.model = p_model)
    group by 1, 2, 3, 4, 5, 6
  )
  select
    s.tenant, s.day, m.name, s.provider, s.model, s.currency, s.calls, s.input_tokens, s.output_tokens, s.cost
  from summed s
  left join rowcall.method m on m.method_id = s.method_id
  order by s.currency, s.cost desc, s.tenant, s.day, m.name, s.provider, s.model
  limit p_limit;
end
$$;

-- What a row of spend called, in a word.
create function rowcall.spend_kind_name(p_kind smallint)
returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case p_kind when 1 then 'MODEL' when 2 then 'PROVIDER' end
$$;

-- What calls cost, by day (UTC), tenant, method, provider and model. For auditors; by currency, which is empty of calls whose cost
-- nobody knows.
create view rowcall.spend_by_day as
select
  s.tenant,
  s.day,
  m.name as method,
  rowcall.spend_kind_name(s.kind) as kind,
  s.provider,
  s.model,
  s.currency,
  sum(s.calls)::bigint as calls,
  sum(s.input_tokens) as input_tokens,
  sum(s.output_tokens) as output_tokens,
  sum(s.cost) as cost
from rowcall.spend s
join rowcall.method m on m.method_id = s.method_id
group by s.tenant, s.day, m.name, s.kind, s.provider, s.model, s.currency;

-- The same of the tenants that a login may read: as tenant_jobs.
create view rowcall.tenant_spend with (security_barrier) as
select
  s.tenant, s.day, s.method, s.kind, s.provider, s.model, s.currency, s.calls, s.input_tokens, s.output_tokens, s.cost
from rowcall.spend_by_day s
where s.tenant = any (array(select r.tenant from rowcall.tenant_reader r where r.login = session_user));

-- The same without tenants.
create view rowcall.spend_totals as
select
  s.day, s.method, s.kind, s.provider, s.model, s.currency, sum(s.calls)::bigint as calls,
  sum(s.input_tokens) as input_tokens, sum(s.output_tokens) as output_tokens, sum(s.cost) as cost
from rowcall.spend_by_day s
group by s.day, s.method, s.kind, s.provider, s.model, s.currency;

-- What tenants have spent of their budgets: in a currency, since the beginning of a day (1) or month (2) of UTC, and how long that goes on. By
-- place (from 1).
create function rowcall.spent_of_budgets(p_tenant text[], p_currency text[], p_period smallint[])
returns table (place bigint, spent numeric, time_left interval)
language sql stable security definer set search_path = pg_catalog, pg_temp
set enable_seqscan = off set jit = off
as $$
  select
    i.place,
    (
      select coalesce(sum(s.cost), 0)
      from rowcall.spend s
      where s.tenant = i.tenant and s.day >= p.since::date and s.currency = i.currency
    ),
    p.since + p.length - n.now
  from unnest(p_tenant, p_currency, p_period) with ordinality as i (tenant, currency, period, place)
  cross join (select clock_timestamp() at time zone 'UTC' as now) n
  cross join lateral (
    select
      date_trunc(case i.period when 1 then 'day' else 'month' end, n.now) as since,
      case i.period when 1 then interval '1 day' else interval '1 month' end as length
  ) p
$$;

grant execute on function rowcall.sum_spend, rowcall.spent_of_budgets to rowcall_gateway;
grant select on rowcall.spend_by_day to rowcall_auditor;
grant select on rowcall.tenant_spend to rowcall_tenant_reader;
grant select on rowcall.spend_totals to rowcall_reader;
grant execute on function rowcall.spend_kind_name to rowcall_auditor, rowcall_tenant_reader, rowcall_reader;
