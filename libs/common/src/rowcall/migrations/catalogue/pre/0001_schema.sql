-- The schema of the catalogue. The roles are there before: those of rights.toml and the owner, which "rowcall migrate" makes,
-- or tells of where it may not. None can log in: an operator grants them to login roles. The owner holds
-- the tables; services hold the rights they need and nothing else.
create schema if not exists rowcall_catalogue authorization rowcall_owner;

-- Said, so that an operator may take it from PUBLIC, who has it of every database.
do $$
begin
  execute format(
    'grant connect on database %I to rowcall_gateway, rowcall_worker, rowcall_auditor', current_database()
  );
end
$$;

set local role rowcall_owner;
-- What later files make is nobody's until it is granted, this schema's too. (Said of one schema it would
-- have no effect: defaults of a schema can only add to those of the database.)
alter default privileges revoke all on functions from public;
alter default privileges revoke all on types from public;

grant usage on schema rowcall_catalogue to rowcall_gateway, rowcall_worker, rowcall_auditor;
