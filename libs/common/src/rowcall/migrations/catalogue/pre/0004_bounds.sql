-- How much is let in: bounds, set by admins through a gateway. Every gateway reads what is new of
-- them once a second, and leaves what it knows on the shards, for those that start without the
-- catalogue.
set local role rowcall_owner;

create table rowcall_catalogue.bound (
  -- What it is of; '' where it is not of any one. A tenant of '-' is each by itself.
  tenant text not null,
  queue text not null,
  method text not null,
  -- Jobs a second.
  rate double precision,
  in_flight integer,
  waiters integer,
  backlog bigint,
  oldest_age interval,
  -- One more at each change, in the order in which changes are committed. A bound that was taken
  -- away stays as a row that bounds nothing, so that gateways hear of it.
  number bigint not null,
  updated_at timestamptz not null,
  actor text,
  note text,
  -- What a tenant's calls of models and providers may cost; for 1 a day of UTC, 2 a month.
  budget numeric check (budget >= 0 and budget < 'Infinity'),
  budget_currency text,
  budget_period smallint check (budget_period in (1, 2)),
  check (num_nonnulls(budget, budget_currency, budget_period) in (0, 3)),
  primary key (tenant, queue, method)
);

create index bound_number on rowcall_catalogue.bound (number);

-- Sets a bound as a whole; one that bounds nothing is as good as none.
create function rowcall_catalogue.set_bound(
  p_tenant text, p_queue text, p_method text, p_rate double precision, p_in_flight integer, p_waiters integer,
  p_backlog bigint, p_oldest_age interval, p_actor text, p_note text, p_budget numeric, p_budget_currency text,
  p_budget_period smallint
)
returns setof rowcall_catalogue.bound
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_number bigint;
begin
  -- As revoke_credentials: whoever has read up to a number must not meet a lower one later.
  lock table rowcall_catalogue.bound in share row exclusive mode;
  select coalesce(max(b.number), 0) + 1 into v_number from rowcall_catalogue.bound b;
  return query
    insert into rowcall_catalogue.bound as b (
      tenant, queue, method, rate, in_flight, waiters, backlog, oldest_age, number, updated_at, actor, note,
      budget, budget_currency, budget_period
    )
    values (
      p_tenant, p_queue, p_method, p_rate, p_in_flight, p_waiters, p_backlog, p_oldest_age, v_number,
      clock_timestamp(), p_actor, p_note, p_budget, p_budget_currency, p_budget_period
    )
    on conflict (tenant, queue, method) do update
    set
      rate = excluded.rate,
      in_flight = excluded.in_flight,
      waiters = excluded.waiters,
      backlog = excluded.backlog,
      oldest_age = excluded.oldest_age,
      number = excluded.number,
      updated_at = excluded.updated_at,
      actor = excluded.actor,
      note = excluded.note,
      budget = excluded.budget,
      budget_currency = excluded.budget_currency,
      budget_period = excluded.budget_period
    returning b.*;
end
$$;

-- What was set after a number, the earliest first.
create function rowcall_catalogue.bounds_since(p_number bigint, p_limit integer)
returns setof rowcall_catalogue.bound
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select b.*
  from rowcall_catalogue.bound b
  where b.number > p_number
  order by b.number
  limit p_limit
$$;

-- Gateways set bounds by set_bound_recorded of 0005_audit.
grant execute on function rowcall_catalogue.bounds_since(bigint, integer) to rowcall_gateway;
grant select on rowcall_catalogue.bound to rowcall_auditor;
