-- Which tokens are refused, whoever issued them. Written by admins through a gateway, read
-- by every gateway once a second: what is new is a look at the end of one index.
set local role rowcall_owner;

create table rowcall_catalogue.revocation (
  -- The claims "iss" and "sub" of the tokens; a subject of '' is everybody's.
  issuer text not null,
  subject text not null,
  -- Tokens that were issued before it are refused. It only ever moves on.
  before timestamptz not null,
  -- One more at each change, in the order in which changes are committed.
  number bigint not null unique,
  created_at timestamptz not null,
  actor text,
  note text,
  primary key (issuer, subject)
);

-- Refuses the tokens that were issued before a time (null, or later than now: now), and
-- answers with what is refused: by the later time where it was said before.
create function rowcall_catalogue.revoke_credentials(
  p_issuer text, p_subject text, p_before timestamptz, p_actor text, p_note text
)
returns table (
  issuer text, subject text, before timestamptz, number bigint, created_at timestamptz, actor text, note text
)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_number bigint;
begin
  -- One after the other until the commit: whoever has read up to a number must not meet
  -- a lower one later.
  lock table rowcall_catalogue.revocation in share row exclusive mode;
  select coalesce(max(r.number), 0) + 1 into v_number from rowcall_catalogue.revocation r;
  return query
    insert into rowcall_catalogue.revocation as r (issuer, subject, before, number, created_at, actor, note)
    values (
      p_issuer, p_subject, least(coalesce(p_before, clock_timestamp()), clock_timestamp()), v_number,
      clock_timestamp(), p_actor, p_note
    )
    on conflict (issuer, subject) do update
    set
      before = greatest(r.before, excluded.before),
      number = excluded.number,
      created_at = excluded.created_at,
      actor = excluded.actor,
      note = excluded.note
    returning r.issuer, r.subject, r.before, r.number, r.created_at, r.actor, r.note;
end
$$;

-- What was revoked after a number, the earliest first.
create function rowcall_catalogue.revocations_since(p_number bigint, p_limit integer)
returns table (issuer text, subject text, before timestamptz, number bigint)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select r.issuer, r.subject, r.before, r.number
  from rowcall_catalogue.revocation r
  where r.number > p_number
  order by r.number
  limit p_limit
$$;

-- What was revoked, the latest first, below a number where it is not null; of one issuer
-- where it is not ''.
create function rowcall_catalogue.list_revocations(p_issuer text, p_below bigint, p_limit integer)
returns table (
  issuer text, subject text, before timestamptz, number bigint, created_at timestamptz, actor text, note text
)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select r.issuer, r.subject, r.before, r.number, r.created_at, r.actor, r.note
  from rowcall_catalogue.revocation r
  where (p_issuer = '' or r.issuer = p_issuer) and (p_below is null or r.number < p_below)
  order by r.number desc
  limit p_limit
$$;

revoke all on function rowcall_catalogue.revoke_credentials(text, text, timestamptz, text, text) from public;
revoke all on function rowcall_catalogue.revocations_since(bigint, integer) from public;
revoke all on function rowcall_catalogue.list_revocations(text, bigint, integer) from public;
grant execute on function rowcall_catalogue.revocations_since(bigint, integer) to rowcall_gateway;
grant execute on function rowcall_catalogue.list_revocations(text, bigint, integer) to rowcall_gateway;
grant select on rowcall_catalogue.revocation to rowcall_auditor;
