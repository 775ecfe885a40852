-- Capability functions for what services agree on: routes, methods, queues and
-- policies. Owned by the NOLOGIN owner, SECURITY DEFINER, search_path fixed,
-- EXECUTE granted by name in the last file.
set local role rowcall_owner;

-- Adopts a tenant that the catalogue has placed here, and answers with its route
-- as this shard has it. Never overrides: a tenant that moved away stays away.
create function rowcall.adopt_tenant(p_tenant text, p_epoch bigint)
returns table (epoch bigint, state smallint)
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  insert into rowcall.tenant_route as r (tenant, epoch, state)
  values (p_tenant, p_epoch, 1)
  on conflict (tenant) do update set epoch = r.epoch
  returning r.epoch, r.state
$$;

-- The route of one tenant as this shard has it; no row if it never lived here.
create function rowcall.tenant_route(p_tenant text)
returns table (epoch bigint, state smallint)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select r.epoch, r.state from rowcall.tenant_route r where r.tenant = p_tenant
$$;

create function rowcall.shard_facts()
returns table (shard text, fingerprint_key bytea)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select i.shard, i.fingerprint_key from rowcall.shard_info i
$$;

-- The id of a queue, made with its four lanes if it is new. The sequences'
-- names are made of the id alone, never of what a caller said.
create function rowcall.queue_id(p_name text)
returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
begin
  select q.queue_id into v_id from rowcall.queue q where q.name = p_name;
  if found then
    return v_id;
  end if;
  -- One maker at a time: the lanes must be there when the queue is seen.
  perform pg_advisory_xact_lock(hashtextextended('rowcall.queue', 0));
  select q.queue_id into v_id from rowcall.queue q where q.name = p_name;
  if found then
    return v_id;
  end if;
  insert into rowcall.queue (name) values (p_name) returning rowcall.queue.queue_id into v_id;
  for v_lane in 1..4 loop
    execute format('create sequence rowcall.frontier_%s_%s as bigint minvalue 0 start 0', v_id, v_lane);
    insert into rowcall.queue_lane (queue_id, lane, frontier)
    values (v_id, v_lane, format('rowcall.frontier_%s_%s', v_id, v_lane)::regclass);
  end loop;
  return v_id;
end
$$;

create function rowcall.method_id(p_name text)
returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
begin
  select m.method_id into v_id from rowcall.method m where m.name = p_name;
  if not found then
    insert into rowcall.method as m (name) values (p_name)
    on conflict (name) do update set name = m.name
    returning m.method_id into v_id;
  end if;
  return v_id;
end
$$;

-- What gateways know of a method from its image, for those who have no image:
-- submit_v1 and the follow-up jobs. The last publisher is believed.
create function rowcall.publish_method(
  p_method_id integer, p_policy_id integer, p_queue_id integer, p_lane smallint, p_request_type text, p_response_type text
)
returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  update rowcall.method m
  set
    policy_id = p_policy_id, queue_id = p_queue_id, lane = p_lane,
    request_type = p_request_type, response_type = p_response_type
  where m.method_id = p_method_id
    and (m.policy_id, m.queue_id, m.lane, m.request_type, m.response_type)
      is distinct from (p_policy_id, p_queue_id, p_lane, p_request_type, p_response_type)
$$;

-- The methods that gateways have published, each with the queue that it is submitted to.
create function rowcall.published_methods()
returns table (method text, queue text)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select m.name, q.name from rowcall.method m join rowcall.queue q on q.queue_id = m.queue_id
$$;

-- Two images' words on one type: every field of either. Where they differ on one, it is
-- taken for what is compared with most care, so that no version of it finds two requests
-- the same that are not. Only functions that have a search_path call it.
create function rowcall.merged_fields(p_one jsonb, p_other jsonb)
returns jsonb
language sql immutable
as $$
  select coalesce(
    jsonb_object_agg(
      coalesce(o.key, n.key),
      case
        when o.value is null then n.value
        when n.value is null or n.value = o.value then o.value
        else o.value || n.value || jsonb_build_object(
          'kind',
          case
            when o.value ->> 'type' is distinct from n.value ->> 'type' then 'plain'
            when o.value -> 'kind' = n.value -> 'kind' then o.value ->> 'kind'
            when o.value ->> 'kind' in ('map', 'messages') and n.value ->> 'kind' in ('map', 'messages') then 'messages'
            else 'plain'
          end
        )
      end
    ),
    '{}'
  )
  from jsonb_each(p_one) o
  full join jsonb_each(p_other) n on n.key = o.key
$$;

-- What gateways know of messages' types from their images.
create function rowcall.publish_types(p_name text[], p_fields jsonb[])
returns void
language sql security definer set search_path = pg_catalog, pg_temp
as $$
  -- In one order, lest two gateways that start together wait for each other.
  insert into rowcall.message_type as m (name, fields)
  select i.name, i.fields from unnest(p_name, p_fields) as i (name, fields) order by i.name
  on conflict (name) do update set fields = rowcall.merged_fields(m.fields, excluded.fields)
  where rowcall.merged_fields(m.fields, excluded.fields) <> m.fields
$$;

create function rowcall.policy_id(
  p_max_attempts integer,
  p_backoff_initial interval,
  p_backoff_maximum interval,
  p_backoff_multiplier double precision,
  p_timeout interval,
  p_retention smallint,
  p_on_abandon smallint,
  p_deadline interval,
  p_retry_codes integer[]
)
returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_id integer;
begin
  select p.policy_id into v_id
  from rowcall.policy p
  where (p.max_attempts, p.backoff_initial, p.backoff_maximum, p.backoff_multiplier, p.timeout, p.retention, p.on_abandon)
    = (p_max_attempts, p_backoff_initial, p_backoff_maximum, p_backoff_multiplier, p_timeout, p_retention, p_on_abandon)
    and p.deadline is not distinct from p_deadline
    and p.retry_codes = p_retry_codes;
  if not found then
    insert into rowcall.policy as p (
      max_attempts, backoff_initial, backoff_maximum, backoff_multiplier, timeout, retention, on_abandon, deadline,
      retry_codes
    )
    values (
      p_max_attempts, p_backoff_initial, p_backoff_maximum, p_backoff_multiplier, p_timeout, p_retention, p_on_abandon,
      p_deadline, p_retry_codes
    )
    on conflict (
      max_attempts, backoff_initial, backoff_maximum, backoff_multiplier, timeout, retention, on_abandon, deadline,
      retry_codes
    )
    do update set max_attempts = p.max_attempts
    returning p.policy_id into v_id;
  end if;
  return v_id;
end
$$;

-- What workers need of every policy and queue, read whole: both tables are small.
create function rowcall.policies()
returns table (
  policy_id integer, max_attempts integer, backoff_initial interval, backoff_maximum interval,
  backoff_multiplier double precision, timeout interval, retry_codes integer[]
)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select
    p.policy_id, p.max_attempts, p.backoff_initial, p.backoff_maximum, p.backoff_multiplier, p.timeout, p.retry_codes
  from rowcall.policy p
$$;

-- How long a job waits after an attempt: a random part (full jitter) of
-- least(maximum, initial * multiplier ^ (attempt - 1)). Only functions with a search_path
-- of their own call it.
create function rowcall.backoff(p_policy rowcall.policy, p_attempt integer)
returns interval
language sql volatile
as $$
  select random() * least(
    p_policy.backoff_maximum,
    p_policy.backoff_initial * least(p_policy.backoff_multiplier ^ least(p_attempt - 1, 100), 1e9)
  )
$$;

-- Queues that have live jobs of the methods a worker serves are found by name:
-- a worker drains every queue unless it was told which.
create function rowcall.queues()
returns table (queue_id integer, name text, paused boolean)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select q.queue_id, q.name, q.paused_at is not null from rowcall.queue q order by q.queue_id
$$;

-- Says that handlers write a table of the users' in their job's own transaction: its
-- rows belong to the tenant as its jobs do, and move with it. For operators (members of
-- the owner); once more for the same table changes the column. Answers with the name
-- under which the table is kept.
create function rowcall.register_tenant_table(p_table text, p_tenant_column text)
returns text
language plpgsql set search_path = pg_catalog, pg_temp set quote_all_identifiers = off
as $$
declare
  v_table regclass := to_regclass(p_table);
  v_schema text;
  v_kind "char";
  v_name text;
  v_column pg_attribute;
begin
  if v_table is null then
    raise exception 'There is no table % here.', p_table
      using errcode = 'undefined_table', hint = 'Create it on this shard first, and name it with its schema.';
  end if;
  select n.nspname, c.relkind, format('%I.%I', n.nspname, c.relname) into v_schema, v_kind, v_name
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  where c.oid = v_table;
  if v_kind not in ('r', 'p') or v_schema = 'rowcall' or left(v_schema, 3) = 'pg_' or v_schema = 'information_schema' then
    raise exception '% is no table of yours.', v_name
      using errcode = 'wrong_object_type', hint = 'Name a table that your handlers write: no view, and none of Rowcall or Postgres.';
  end if;
  select a.* into v_column
  from pg_attribute a
  where a.attrelid = v_table and a.attname = p_tenant_column and a.attnum > 0 and not a.attisdropped;
  if not found then
    raise exception 'The table % has no column %.', v_name, p_tenant_column
      using errcode = 'undefined_column', hint = 'Name the column that says whose a row is.';
  end if;
  if v_column.atttypid not in ('text'::regtype, 'character varying'::regtype) or not v_column.attnotnull then
    raise exception 'The column % of % must be text, and not null.', p_tenant_column, v_name
      using errcode = 'datatype_mismatch', hint = 'It holds the tenant''s name, as the handler''s context.tenant.';
  end if;
  insert into rowcall.tenant_table as t (name, tenant_column)
  values (v_name, p_tenant_column)
  on conflict (name) do update set tenant_column = excluded.tenant_column;
  return v_name;
end
$$;
