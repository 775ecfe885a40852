-- Who may do what. Nobody but the owner has rights on tables; a function is
-- granted by name to the roles that need it.
set local role rowcall_owner;

revoke all on all functions in schema rowcall from public;
-- Also of the functions that later migrations bring. (Said of one schema it would
-- have no effect: defaults of a schema can only add to those of the database.)
alter default privileges revoke all on functions from public;

grant execute on function
  rowcall.adopt_tenant, rowcall.tenant_route, rowcall.shard_facts,
  rowcall.queue_id, rowcall.method_id, rowcall.policy_id,
  rowcall.submit_jobs, rowcall.read_jobs, rowcall.read_outcomes, rowcall.list_jobs,
  rowcall.cancel_job, rowcall.delete_job
to rowcall_gateway;

grant execute on function
  rowcall.shard_facts, rowcall.method_id, rowcall.policies, rowcall.queues,
  rowcall.register_worker, rowcall.renew_worker, rowcall.retire_worker, rowcall.make_history_days,
  rowcall.claim_jobs, rowcall.settle_jobs, rowcall.release_jobs,
  rowcall.promote_jobs, rowcall.bury_workers, rowcall.rescue_jobs, rowcall.expire_keys
to rowcall_worker;

grant select on rowcall.jobs to rowcall_reader;
