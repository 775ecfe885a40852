-- The schema of a shard. The roles are there before: those of rights.toml and the owner, which "rowcall migrate" makes,
-- or tells of where it may not. None can log in: an operator grants them to login roles. The owner holds the tables and
-- the capability functions; services hold EXECUTE on their functions and nothing else.
create schema if not exists rowcall authorization rowcall_owner;

-- Said, so that an operator may take it from PUBLIC, who has it of every database.
do $$
begin
  execute format(
    'grant connect on database %I to rowcall_gateway, rowcall_worker, rowcall_submitter, rowcall_servicer, '
    'rowcall_reader, rowcall_tenant_reader, rowcall_auditor',
    current_database()
  );
end
$$;

set local role rowcall_owner;
-- What later files make is nobody's until it is granted. (Said of one schema it would
-- have no effect: defaults of a schema can only add to those of the database.)
alter default privileges revoke all on functions from public;
alter default privileges revoke all on types from public;

grant usage on schema rowcall
to rowcall_gateway, rowcall_worker, rowcall_submitter, rowcall_servicer, rowcall_reader, rowcall_tenant_reader, rowcall_auditor;
