-- The catalogue: which tenant lives on which shard. Small, read seldom (routers
-- cache it), never on the path of a known tenant's call.
set local role rowcall_owner;

create table rowcall_catalogue.tenant (
  tenant text primary key,
  shard text not null,
  -- One more at every move: the higher epoch is the later truth.
  epoch bigint not null default 1,
  placed_at timestamptz not null default clock_timestamp()
);

-- Gateways place new tenants and never move them; a move is an operator's. When it was placed is the database's to say.
grant select (tenant, shard, epoch), insert (tenant, shard, epoch) on rowcall_catalogue.tenant to rowcall_gateway;
grant select (tenant, shard, epoch) on rowcall_catalogue.tenant to rowcall_worker;
grant select on rowcall_catalogue.tenant to rowcall_auditor;
