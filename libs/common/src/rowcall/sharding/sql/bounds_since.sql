-- What was set of bounds since, the earliest first.
select
  b.tenant, b.queue, b.method, b.rate, b.in_flight, b.waiters, b.backlog, b.oldest_age, b.number, b.updated_at, b.actor,
  b.note, b.budget, b.budget_currency, b.budget_period
from rowcall_catalogue.bounds_since(%(number)s, %(limit)s) b
