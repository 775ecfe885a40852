-- Sets a bound as a whole, and records who did; as it stands then.
select
  b.tenant, b.queue, b.method, b.rate, b.in_flight, b.waiters, b.backlog, b.oldest_age, b.number, b.updated_at, b.actor,
  b.note, b.budget, b.budget_currency, b.budget_period
from rowcall_catalogue.set_bound_recorded(
  %(tenant)s, %(queue)s, %(method)s, %(rate)s::float8, %(in_flight)s::integer, %(waiters)s::integer, %(backlog)s::bigint,
  %(oldest_age)s::interval, %(actor)s, %(note)s, %(act)s::jsonb,
  %(budget)s::numeric, %(budget_currency)s::text, %(budget_period)s::smallint
) b
