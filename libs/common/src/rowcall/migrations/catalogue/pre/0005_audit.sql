-- Who did what that belongs to no shard: revocations, bounds, images (0006_images). As on
-- shards (0018_audit there), but one chain, that of the system, whose rows get their place as they
-- are written: whoever changes something here waits for whoever does at the same time.
set local role rowcall_owner;

create table rowcall_catalogue.audit (
  place bigint primary key,
  at timestamptz not null,
  actor text,
  credential text,
  roles text,
  action text not null,
  target text not null,
  before text,
  after text,
  reason text,
  trace_id text,
  digest bytea not null,
  hash bytea not null
);

-- The end of the chain. One row.
create table rowcall_catalogue.audit_end (
  one boolean primary key default true check (one),
  place bigint not null,
  hash bytea not null
);
insert into rowcall_catalogue.audit_end (place, hash) values (0, decode(repeat('00', 32), 'hex'));

-- Records an action in the transaction that does it; of an act that is null, that somebody acted
-- and was not named.
create function rowcall_catalogue.record_action(
  p_act jsonb, p_action text, p_target text, p_before jsonb, p_after jsonb
)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_place bigint;
  v_hash bytea;
  v_at timestamptz;
  v_digest bytea;
begin
  select e.place + 1, e.hash into strict v_place, v_hash from rowcall_catalogue.audit_end e for update;
  -- Behind the lock: times are in the order of places.
  v_at := clock_timestamp();
  select sha256(convert_to(
    string_agg(coalesce(octet_length(f.value) || ':' || f.value, '-'), ';' order by f.number), 'UTF8'
  )) into v_digest
  from unnest(array[
    '', (extract(epoch from v_at) * 1000000)::bigint::text, p_act ->> 'actor', p_act ->> 'credential', p_act ->> 'roles',
    p_action, p_target, p_before::text, p_after::text, p_act ->> 'reason', p_act ->> 'trace_id'
  ]) with ordinality as f (value, number);
  v_hash := sha256(v_hash || int8send(v_place) || v_digest);
  insert into rowcall_catalogue.audit (
    place, at, actor, credential, roles, action, target, before, after, reason, trace_id, digest, hash
  )
  values (
    v_place, v_at, p_act ->> 'actor', p_act ->> 'credential', p_act ->> 'roles', p_action, p_target, p_before::text,
    p_after::text, p_act ->> 'reason', p_act ->> 'trace_id', v_digest, v_hash
  );
  update rowcall_catalogue.audit_end set place = v_place, hash = v_hash;
end
$$;

-- revoke_credentials, recorded with what was revoked of the same before.
create function rowcall_catalogue.revoke_recorded(
  p_issuer text, p_subject text, p_before timestamptz, p_actor text, p_note text, p_act jsonb
)
returns table (
  issuer text, subject text, before timestamptz, number bigint, created_at timestamptz, actor text, note text
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_before jsonb;
begin
  -- As revoke_credentials does: nobody changes it meanwhile.
  lock table rowcall_catalogue.revocation in share row exclusive mode;
  select jsonb_build_object('before', r.before, 'by', r.actor, 'note', r.note) into v_before
  from rowcall_catalogue.revocation r
  where r.issuer = p_issuer and r.subject = p_subject;
  select r.* into strict issuer, subject, before, number, created_at, actor, note
  from rowcall_catalogue.revoke_credentials(p_issuer, p_subject, p_before, p_actor, p_note) r;
  perform rowcall_catalogue.record_action(
    case
      when p_note is null then p_act
      else coalesce(p_act, jsonb_build_object()) || jsonb_build_object('reason', p_note)
    end,
    'credentials.revoke',
    p_issuer || case p_subject when '' then '' else ' ' || p_subject end,
    v_before,
    jsonb_build_object('before', before)
  );
  return next;
end
$$;

-- set_bound, recorded with the bound before and after; one that bounds nothing is taken away.
create function rowcall_catalogue.set_bound_recorded(
  p_tenant text, p_queue text, p_method text, p_rate double precision, p_in_flight integer, p_waiters integer,
  p_backlog bigint, p_oldest_age interval, p_actor text, p_note text, p_act jsonb, p_budget numeric,
  p_budget_currency text, p_budget_period smallint
)
returns setof rowcall_catalogue.bound
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_before jsonb;
  v_bound rowcall_catalogue.bound;
begin
  -- As set_bound does: nobody changes it meanwhile.
  lock table rowcall_catalogue.bound in share row exclusive mode;
  select rowcall_catalogue.said_bound(b) into v_before
  from rowcall_catalogue.bound b
  where b.tenant = p_tenant and b.queue = p_queue and b.method = p_method;
  select b.* into strict v_bound
  from rowcall_catalogue.set_bound(
    p_tenant, p_queue, p_method, p_rate, p_in_flight, p_waiters, p_backlog, p_oldest_age, p_actor, p_note,
    p_budget, p_budget_currency, p_budget_period
  ) b;
  perform rowcall_catalogue.record_action(
    case
      when p_note is null then p_act
      else coalesce(p_act, jsonb_build_object()) || jsonb_build_object('reason', p_note)
    end,
    case when rowcall_catalogue.said_bound(v_bound) is null then 'bound.delete' else 'bound.set' end,
    'bounds/' || concat_ws(
      ',', 'tenant=' || nullif(p_tenant, ''), 'queue=' || nullif(p_queue, ''), 'method=' || nullif(p_method, '')
    ),
    v_before,
    rowcall_catalogue.said_bound(v_bound)
  );
  return next v_bound;
end
$$;

-- What a bound bounds; null: nothing.
create function rowcall_catalogue.said_bound(p_bound rowcall_catalogue.bound)
returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select case
    when
      num_nonnulls(
        p_bound.rate, p_bound.in_flight, p_bound.waiters, p_bound.backlog, p_bound.oldest_age, p_bound.budget
      ) > 0
    then
      jsonb_strip_nulls(jsonb_build_object(
        'rate', p_bound.rate, 'in_flight', p_bound.in_flight, 'waiters', p_bound.waiters, 'backlog', p_bound.backlog,
        'oldest_age_seconds', extract(epoch from p_bound.oldest_age)::float8,
        'budget', p_bound.budget, 'budget_currency', p_bound.budget_currency,
        'budget_period', case p_bound.budget_period when 1 then 'day' when 2 then 'month' end,
        'by', p_bound.actor, 'note', p_bound.note
      ))
  end
$$;

-- A page of the rows, the latest first, below a place where it is not null, of what is asked for
-- where it is not ''.
create function rowcall_catalogue.list_audit(
  p_below bigint, p_limit integer, p_actor text, p_action text, p_target text
)
returns table (
  place bigint, hash bytea, at timestamptz, actor text, credential text, roles text, action text, target text, before text,
  after text, reason text, trace_id text
)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select
    a.place, a.hash, a.at, a.actor, a.credential, a.roles, a.action, a.target, a.before, a.after, a.reason, a.trace_id
  from rowcall_catalogue.audit a
  where (p_below is null or a.place < p_below)
    and (p_actor = '' or a.actor = p_actor)
    and (p_action = '' or a.action = p_action or starts_with(a.action, p_action || '.'))
    and (p_target = '' or a.target = p_target)
  order by a.place desc
  limit p_limit
$$;

-- The last row of the chain; place 0: it has none.
create function rowcall_catalogue.audit_head()
returns table (place bigint, hash bytea, at timestamptz)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(a.place, 0), coalesce(a.hash, decode(repeat('00', 32), 'hex')), a.at
  from (values (1)) as alone (number)
  left join lateral (
    select l.place, l.hash, l.at from rowcall_catalogue.audit l order by l.place desc limit 1
  ) a on true
$$;

-- A stretch of the chain, behind a place, for who verifies it.
create function rowcall_catalogue.audit_chain(p_after bigint, p_limit integer)
returns table (
  place bigint, digest bytea, hash bytea, at timestamptz, actor text, credential text, roles text, action text, target text,
  before text, after text, reason text, trace_id text
)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select
    a.place, a.digest, a.hash, a.at, a.actor, a.credential, a.roles, a.action, a.target, a.before, a.after, a.reason,
    a.trace_id
  from rowcall_catalogue.audit a
  where a.place > p_after
  order by a.place
  limit p_limit
$$;

grant execute on function
  rowcall_catalogue.revoke_recorded, rowcall_catalogue.set_bound_recorded, rowcall_catalogue.list_audit, rowcall_catalogue.audit_head,
  rowcall_catalogue.audit_chain
to rowcall_gateway;
grant select on rowcall_catalogue.audit to rowcall_auditor;
