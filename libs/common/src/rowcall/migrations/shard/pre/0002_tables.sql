-- The tables of a shard. Keys begin with the tenant. Times are the database's.
set local role rowcall_owner;

-- Facts about this shard that every service must agree on.
create table rowcall.shard_info (
  singleton boolean primary key default true check (singleton),
  shard text not null,
  -- Keys the fingerprints of requests, so that they tell nothing about payloads.
  fingerprint_key bytea not null,
  -- Postgres's, which a promoted standby changes; and since when it is this one, if
  -- there was another before.
  timeline text,
  timeline_since timestamptz,
  -- What the server was found to refuse of what only sharpens: see find_lacks().
  lacks text[] not null default '{}'
);

-- Who lives here. The shard is the authority: a submit joins this table.
create table rowcall.tenant_route (
  tenant text primary key,
  epoch bigint not null,
  -- 1 ACTIVE, 2 FENCED (being moved away: no new rows), 3 MOVED (lives elsewhere), 4 ERASED (or being
  -- erased: no new rows, until it is opened again)
  state smallint not null check (state in (1, 2, 3, 4)),
  changed_at timestamptz not null default clock_timestamp(),
  -- Its share of a queue beside the other tenants': one of weight 3 is served three
  -- times as often as one of weight 1.
  weight double precision not null default 1 check (weight between 0.01 and 100),
  paused_at timestamptz,
  paused_by text,
  pause_note text,
  -- Whether jobs may be set aside on its account: from its pause on, until it was resumed and
  -- they are all free.
  holding boolean not null default false
);
create index tenant_paused on rowcall.tenant_route (tenant) where paused_at is not null;
create index tenant_holding on rowcall.tenant_route (tenant) where holding;

create table rowcall.queue (
  queue_id integer generated always as identity primary key,
  name text not null unique,
  -- How long a job waits in a lane before it may move up to the next one.
  age_after interval not null default '1 minute' check (age_after > interval '0'),
  paused_at timestamptz,
  paused_by text,
  pause_note text
);

-- Each lane's frontier, the highest order key claimed, is a sequence: it is not
-- versioned, so that a held snapshot leaves no dead rows behind it.
create table rowcall.queue_lane (
  queue_id integer not null references rowcall.queue,
  lane smallint not null check (lane between 1 and 4),
  frontier regclass not null,
  primary key (queue_id, lane)
);

create table rowcall.method (
  method_id integer generated always as identity primary key,
  name text not null unique,
  -- As its gateways publish it: what submit_v1 and follow-up jobs need to know.
  -- Null until one has.
  request_type text,
  response_type text,
  policy_id integer,
  queue_id integer,
  lane smallint,
  paused_at timestamptz,
  paused_by text,
  pause_note text,
  -- As in tenant_route.
  holding boolean not null default false
);

-- The types of messages in the images of gateways, so that two serialisations of one
-- request can be told from two requests: see canonical_message.
create table rowcall.message_type (
  name text primary key,
  -- By number, what of a field matters for that: rowcall.catalogue.shapes makes it.
  fields jsonb not null
);

-- A method's policy as it was when a job was submitted. Policies are never
-- changed: another policy is another row.
create table rowcall.policy (
  policy_id integer generated always as identity primary key,
  max_attempts integer not null check (max_attempts > 0),
  backoff_initial interval not null,
  backoff_maximum interval not null,
  backoff_multiplier double precision not null check (backoff_multiplier >= 1),
  timeout interval not null,
  retention smallint not null check (retention in (1, 2, 3)),
  on_abandon smallint not null check (on_abandon in (1, 2)),
  -- Of the whole job, from the time it was to start; null: none.
  deadline interval,
  -- google.rpc.Code: with which statuses of a handler's own an attempt is tried again.
  retry_codes integer[] not null,
  unique nulls not distinct (
    max_attempts, backoff_initial, backoff_maximum, backoff_multiplier, timeout, retention, on_abandon, deadline,
    retry_codes
  )
);

-- How far each tenant's jobs have moved ahead in a lane's virtual time. Gateways
-- share their memory of it here, each tenant once a second.
create table rowcall.turn (
  tenant text not null,
  queue_id integer not null,
  lane smallint not null,
  -- Of jobs that were submitted.
  last_key bigint not null default 0,
  -- Of jobs that became ready again: due, replayed, resumed. They do not wait behind
  -- the tenant's own backlog, but neither all at once before everybody else's.
  again_key bigint not null default 0,
  primary key (tenant, queue_id, lane)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Who does what only one worker does at a time, and until when.
create table rowcall.elected (
  role text primary key,
  worker_id uuid not null,
  until timestamptz not null
) with (fillfactor = 50);

-- The users' tables that handlers write in their job's own transaction: they belong
-- to the tenant as its jobs do, and move with it.
create table rowcall.tenant_table (
  name text primary key,
  tenant_column text not null
);

-- A worker process. Its identity is new at each start; the lease is one for all
-- its jobs. A dead worker can neither renew nor claim.
create table rowcall.worker (
  worker_id uuid primary key,
  name text not null,
  -- Of what it runs, as whoever deploys it calls that.
  version text,
  -- Rowcall's own, that its program is of.
  release text,
  host text,
  -- How many jobs of async handlers it runs at once, and how many of others, on all shards together.
  slots integer,
  threads integer,
  -- Whether it runs suspects and nothing else.
  apart boolean not null default false,
  -- Since when the process runs; it may have taken several identities meanwhile.
  up_since timestamptz,
  started_at timestamptz not null default clock_timestamp(),
  dead_at timestamptz,
  -- The transaction that it was declared dead in.
  died_in xid8,
  -- Whether it took its leave in good health: what it still held is no suspect.
  unharmed boolean not null default false,
  -- Whether its renewing session holds an advisory lock, which vanishes with it.
  guarded boolean not null default false,
  -- Dead: since when it is known to hold nothing any more, and will not.
  cleared_at timestamptz,
  -- Dead: when what it holds is looked for again, where that took long and found nothing.
  look_again_at timestamptz
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- What living workers serve, as each says when it registers. Queues by name, for a worker
-- may be told of one that is not there; null: it serves every queue.
create table rowcall.serving (
  worker_id uuid primary key,
  worker text not null,
  method_id integer[] not null,
  queues text[]
);

-- Who served a method last, of those that are dead by now, and until when; by queue, '' where
-- it was every queue. Written when a worker dies, never by a job.
create table rowcall.served (
  method_id integer not null,
  queue text not null,
  worker text not null,
  until timestamptz not null,
  primary key (method_id, queue)
);

-- A worker's last renewal. Beside its worker, which every claim and every settle looks at: the
-- versions that renewals leave behind while a snapshot is held are nobody's to walk over.
-- Each is a row of its own with the next number, and the one before is taken away: read
-- from the highest number down, the first one met is the one that is there.
create table rowcall.worker_beat (
  worker_id uuid not null,
  number bigint not null,
  renewed_at timestamptz not null,
  lease_until timestamptz not null,
  -- Since when the renewals have come without a gap of more than three beats.
  steady_since timestamptz not null,
  -- How late the worker's event loop was at worst since the renewal before.
  loop_lag interval,
  -- How many jobs of this shard had a slot, and how many a thread, as the worker knows it: nobody need count
  -- what job_running has dead entries of.
  slots_taken integer,
  threads_taken integer,
  -- Those of them that had run for a second, the longest first: some hundred at most.
  busy_tenant text[],
  busy_job_id uuid[],
  -- How many of them were of which queue, and how many of it could run at once; none of what suspects only are run of.
  busy_queue_id integer[],
  busy_jobs integer[],
  busy_slots integer[],
  primary key (worker_id, number)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- What happened to jobs in a day (UTC), as the processes that did it counted it and told it every two seconds: of a tenant
-- (queue_id 0), and of a queue (tenant '').
create table rowcall.tally (
  day date not null,
  tenant text not null,
  queue_id integer not null,
  -- Who tells takes one of four, so that few wait for each other; a count is that of all of them.
  slot smallint not null,
  -- A row of its own each time, and the one before is taken away, as with worker_beat. Counted down: the lowest is met first,
  -- so that neither it nor the next tenant is found behind what is dead.
  number bigint not null,
  -- Became rows.
  accepted bigint not null,
  -- Attempts that began.
  started bigint not null,
  succeeded bigint not null,
  -- Attempts that failed, were lost or took too long.
  failed bigint not null,
  -- Jobs that FAILED.
  dead bigint not null,
  cancelled bigint not null,
  -- Calls, by how gateways answered them: with what became of a job of their own or of one that they joined, with an operation, with
  -- STILL_RUNNING, or with a job's failure.
  answered_in_time bigint not null,
  answered_joined bigint not null,
  answered_operation bigint not null,
  answered_still_running bigint not null,
  answered_failed bigint not null,
  primary key (tenant, day, queue_id, slot, number)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- The idempotency keys. This table alone decides whether a call is new; it is
-- written in the submit's transaction, and its rows are never moved.
create table rowcall.job_key (
  tenant text not null,
  method_id integer not null,
  request_id text not null,
  job_id uuid not null,
  -- Of the request: the number of its format, then the hash.
  fingerprint bytea not null,
  expires_at timestamptz not null,
  -- A repeat writes too: its answer is then as durable as the first one's.
  repeated_at timestamptz,
  -- Calls with it that have not left without their answer: see leave_job.
  callers integer not null default 1,
  primary key (tenant, method_id, request_id)
) with (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02);
create index job_key_expiry on rowcall.job_key (expires_at);

-- The live jobs: small and hot. A settle moves the row to job_history.
create table rowcall.job (
  tenant text not null,
  job_id uuid not null,
  -- rowcall.v1.JobState: 1 SCHEDULED, 2 READY, 3 RUNNING, 4 WAITING. Those of finished jobs are
  -- higher, with room between.
  state smallint not null check (state in (1, 2, 3, 4)),
  -- rowcall.options.v1.Priority: 1 URGENT to 4 LOW
  lane smallint not null check (lane between 1 and 4),
  -- The lane that it was submitted in; ageing moves it up.
  priority smallint not null,
  -- Why it is not to be claimed as others are, though it is ready: a set of bits, 0 where nothing
  -- holds it. 1 PAUSED, its tenant or method is; 2 SUSPECT, its workers died twice in a row, and it
  -- runs beside suspects only; 8 LIMITED, as many run already as its limit allows. 4 is no reason but
  -- says of a suspect that it runs alone. From 16 on there is room. Whoever takes the last reason
  -- away gives it a key of again_keys: its old one may lie behind what claims have passed.
  held smallint not null default 0 check (held >= 0 and held & 6 <> 4),
  -- Of the call's W3C traceparent, with trace_id and parent_span_id: see traceparent(). Here, where it
  -- fills what would be padding.
  trace_flags smallint,
  queue_id integer not null,
  -- Virtual time: claims go in its order within queue and lane.
  order_key bigint not null,
  method_id integer not null,
  policy_id integer not null,
  -- The job's lease number: one more at every claim and every rescue. Whoever
  -- renews, settles or hands back must name it.
  lease bigint not null default 0,
  -- The span that called, and the trace that everything belongs to which one action causes.
  parent_span_id bigint,
  trace_id uuid,
  attempt integer not null default 0,
  -- Attempts lost with their worker: counted apart, they use no attempt up.
  lost integer not null default 0,
  -- Those of them in which it ran alone: only these speak against the job itself.
  lost_alone integer not null default 0,
  -- How often it was replayed after it had failed.
  replays integer not null default 0,
  payload_key_id integer,
  -- The limit that it runs under; limit_key: which of the limit's keys it has. Nothing sets them yet.
  limit_id integer,
  -- Of the whole job; null: none.
  deadline timestamptz,
  run_at timestamptz not null,
  created_at timestamptz not null default clock_timestamp(),
  ready_at timestamptz,
  started_at timestamptz,
  attempt_deadline timestamptz,
  cancel_requested_at timestamptz,
  worker_id uuid,
  -- The gateway that waits first: where the hint of the result goes.
  waiter_id uuid,
  request bytea not null,
  request_id text,
  actor text,
  fairness_key text,
  limit_key text,
  tracestate text,
  -- The job whose handler submitted it, or whose end it follows.
  parent_job_id uuid,
  -- The group whose end it counts for. Nothing sets it yet.
  group_id uuid,
  -- What is submitted when it has ended: method_id, policy_id, queue_id and lane.
  on_done integer[],
  labels jsonb,
  -- What its handler last said of how far it is.
  progress real,
  progress_message text,
  progress_at timestamptz,
  -- The attempts that ended before the present one.
  attempts jsonb,
  -- True: submit_v1 wrote it, in somebody else's transaction; null: it did not. Last, and
  -- null in all others, for which it takes no byte.
  by_sql boolean,
  primary key (tenant, job_id)
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_analyze_scale_factor = 0.1,
  autovacuum_vacuum_cost_delay = 0
);
create index job_ready on rowcall.job (queue_id, lane, order_key, job_id) where state = 2 and held = 0;
-- What is held, by its reason; one that has several is in several.
create index job_paused on rowcall.job (tenant, queue_id, order_key) where state = 2 and held & 1 = 1;
create index job_suspect on rowcall.job (queue_id, lane, ready_at) where state = 2 and held & 2 = 2;
create index job_limited on rowcall.job (limit_id, limit_key, lane, order_key) where state = 2 and held & 8 = 8;
create index job_due on rowcall.job (run_at) where state = 1;
-- What submit_v1 looks at: how far a flow has moved ahead in SQL. Held ones are in it too, so
-- that what is submitted for a tenant that is paused is seen.
create index job_by_sql on rowcall.job (tenant, queue_id, lane, order_key) where state = 2 and by_sql;
create index job_deadline on rowcall.job (deadline) where deadline is not null;
-- By when its attempt ends: what a worker that has died may still hold, and what is overdue, lies
-- at the end of a worker's entries, of which there is one for every job that it ever claimed for
-- as long as a snapshot is held.
create index job_running on rowcall.job (worker_id, attempt_deadline) where state = 3;
-- What running jobs are asked for. job_running has an entry of every job that a worker ever
-- claimed, for as long as a snapshot is held; this one has the few that were to be cancelled.
create index job_cancelling on rowcall.job (worker_id, cancel_requested_at) where cancel_requested_at is not null;

-- What a job's handler submitted and what followed its end; nothing while there is no such job. There is
-- none by trace: each job would be in it twice (docs/adr/0024).
create index job_parent on rowcall.job (tenant, parent_job_id, job_id) where parent_job_id is not null;

-- What calls of models and providers cost, one row each, written once and kept apart from jobs: a job's
-- retention and its deletion leave it. Also of attempts that were fenced off, for the money is gone.
create table rowcall.spend_entry (
  tenant text not null,
  job_id uuid not null,
  -- Of the attempt that made the call, and which call of the attempt's it is.
  lease bigint not null,
  call integer not null check (call > 0),
  method_id integer not null,
  -- rowcall.queue.spend.SpendKind: 1 MODEL, 2 PROVIDER
  kind smallint not null check (kind in (1, 2)),
  spent_at timestamptz not null default clock_timestamp(),
  trace_id uuid,
  input_tokens bigint check (input_tokens >= 0),
  output_tokens bigint check (output_tokens >= 0),
  -- Exact; below infinity, which NaN is not.
  cost numeric check (cost >= 0 and cost < 'Infinity'),
  latency interval,
  provider text not null,
  -- Empty: none.
  model text not null,
  currency text,
  verdict text,
  check ((cost is null) = (currency is null)),
  primary key (tenant, job_id, lease, call)
);
-- All that an action cost.
create index spend_entry_trace on rowcall.spend_entry (trace_id) where trace_id is not null;

-- The same in sums of days (UTC, of spent_at). Each sum is that of all its slots: who writes takes one of
-- sixteen, so that few wait for each other.
create table rowcall.spend (
  tenant text not null,
  day date not null,
  method_id integer not null,
  kind smallint not null,
  provider text not null,
  model text not null,
  -- Empty: of calls without a known cost.
  currency text not null,
  slot smallint not null,
  -- As tally has it.
  number bigint not null,
  calls bigint not null,
  input_tokens numeric not null,
  output_tokens numeric not null,
  cost numeric not null,
  primary key (tenant, day, method_id, kind, provider, model, currency, slot, number)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
-- Of all tenants together.
create index spend_day on rowcall.spend (day);

-- The finished jobs, by retention class and the day (UTC) they finished, in
-- database time. There is no default partition (it would block DETACH CONCURRENTLY);
-- days are made ahead by make_history_days().
create table rowcall.job_history (
  tenant text not null,
  job_id uuid not null,
  -- rowcall.v1.JobState: 11 SUCCEEDED, 12 FAILED, 13 CANCELLED, 14 RESOLVED
  state smallint not null check (state in (11, 12, 13, 14)),
  lane smallint not null,
  priority smallint not null,
  trace_flags smallint,
  queue_id integer not null,
  order_key bigint not null,
  method_id integer not null,
  policy_id integer not null,
  lease bigint not null,
  parent_span_id bigint,
  trace_id uuid,
  attempt integer not null,
  lost integer not null,
  lost_alone integer not null,
  replays integer not null,
  payload_key_id integer,
  limit_id integer,
  -- rowcall.options.v1.Retention: 1 SHORT, 2 STANDARD, 3 LONG
  retention smallint not null,
  finished_on date not null,
  finished_at timestamptz not null,
  deadline timestamptz,
  run_at timestamptz not null,
  created_at timestamptz not null,
  ready_at timestamptz,
  started_at timestamptz,
  cancel_requested_at timestamptz,
  worker_id uuid,
  worker text,
  -- Of the worker's, where the job did not succeed.
  worker_version text,
  request bytea not null,
  request_id text,
  actor text,
  fairness_key text,
  limit_key text,
  tracestate text,
  parent_job_id uuid,
  group_id uuid,
  on_done integer[],
  labels jsonb,
  progress real,
  progress_message text,
  progress_at timestamptz,
  attempts jsonb,
  span_id text,
  response bytea,
  -- google.rpc.Status, serialised; code and message beside it for people.
  error bytea,
  error_code integer,
  error_message text,
  -- Where the last attempt's handler raised: "module:function:line" of its own package. For operators:
  -- it is no part of the error.
  location text,
  -- Alike for failures that are alike; see error_fingerprint().
  error_fingerprint text,
  resolved_at timestamptz,
  resolved_by text,
  resolve_note text,
  primary key (tenant, job_id, retention, finished_on)
) partition by list (retention);
-- The dead letters, by what they died of.
create index job_history_failed on rowcall.job_history (tenant, error_fingerprint, job_id) where state = 12;
-- What one action caused.
create index job_history_trace on rowcall.job_history (trace_id) where trace_id is not null;
create index job_history_parent on rowcall.job_history (tenant, parent_job_id, job_id)
where parent_job_id is not null;
create table rowcall.job_history_short partition of rowcall.job_history
  for values in (1) partition by range (finished_on);
create table rowcall.job_history_standard partition of rowcall.job_history
  for values in (2) partition by range (finished_on);
create table rowcall.job_history_long partition of rowcall.job_history
  for values in (3) partition by range (finished_on);

-- Spans that were recorded, by the day (UTC) they were written on. Best effort: what could not be written is nowhere. Days are
-- made and dropped with those of history.
create table rowcall.activity (
  tenant text not null,
  trace_id uuid not null,
  span_id bigint not null,
  finished_on date not null,
  -- opentelemetry.trace.SpanKind: 0 INTERNAL, 1 SERVER, 2 CLIENT, 3 PRODUCER, 4 CONSUMER
  kind smallint not null check (kind between 0 and 4),
  -- opentelemetry.trace.StatusCode: 0 UNSET, 1 OK, 2 ERROR
  status smallint not null check (status between 0 and 2),
  parent_span_id bigint,
  started_at timestamptz not null,
  duration interval not null,
  name text not null,
  message text,
  attributes jsonb not null,
  primary key (tenant, trace_id, span_id, finished_on)
) partition by range (finished_on);
