-- Who may do what, as rights.toml says too. Nobody but the owner has rights on tables; a function
-- is granted by name to the roles that need it, and by 0001_schema is nobody's until then.
set local role rowcall_owner;

grant execute on function
  rowcall.adopt_tenant, rowcall.tenant_route, rowcall.shard_facts,
  rowcall.queue_id, rowcall.method_id, rowcall.policy_id, rowcall.publish_method, rowcall.publish_types,
  rowcall.exchange_turns, rowcall.kept_fingerprint, rowcall.same_request,
  rowcall.submit_jobs, rowcall.read_jobs, rowcall.read_outcomes, rowcall.find_jobs, rowcall.group_failures,
  rowcall.leave_job, rowcall.pauses,
  rowcall.queue_stats, rowcall.find_lacks, rowcall.job_waits, rowcall.queue_serving, rowcall.method_serving,
  rowcall.list_workers, rowcall.worker_jobs, rowcall.add_tallies, rowcall.tenant_tallies, rowcall.shard_today
to rowcall_gateway;

-- Of these, queue_id to submit_jobs are for the jobs that handlers submit.
grant execute on function
  rowcall.queue_id, rowcall.policy_id, rowcall.publish_method, rowcall.tenant_route, rowcall.submit_jobs,
  rowcall.kept_fingerprint, rowcall.same_request, rowcall.shard_facts, rowcall.method_id, rowcall.policies, rowcall.queues,
  rowcall.register_worker, rowcall.guard_worker, rowcall.renew_worker, rowcall.retire_worker, rowcall.elect,
  rowcall.make_history_days, rowcall.drop_history_day, rowcall.analyze_history, rowcall.forget_turns,
  rowcall.claim_jobs, rowcall.claim_suspects, rowcall.count_suspects, rowcall.suspect_waits,
  rowcall.settle_jobs, rowcall.release_jobs,
  rowcall.report_progress, rowcall.book_spend, rowcall.settle_and_book, rowcall.report_and_book,
  rowcall.promote_jobs, rowcall.bury_workers, rowcall.rescue_jobs,
  rowcall.expire_attempts, rowcall.expire_jobs, rowcall.age_jobs, rowcall.hold_paused, rowcall.free_resumed,
  rowcall.expire_keys, rowcall.find_lacks, rowcall.serve_methods, rowcall.published_methods, rowcall.add_tallies
to rowcall_worker;

-- Services that share the shard submit and do nothing else.
grant execute on function rowcall.submit_v1, rowcall.wake_v1 to rowcall_submitter;

-- Servicers that a worker calls over gRPC, and that write on this shard in their own transactions.
grant execute on function rowcall.fence_v1 to rowcall_servicer;

grant select on rowcall.queue_totals, rowcall.finished_totals to rowcall_reader;
grant execute on function rowcall.count_queues, rowcall.state_name to rowcall_reader;

grant select on rowcall.tenant_jobs to rowcall_tenant_reader;
grant select on rowcall.jobs to rowcall_auditor;
-- What a view calls is called by whoever reads it.
grant execute on function
  rowcall.state_name, rowcall.hold_names, rowcall.code_name, rowcall.read_varint, rowcall.read_fields, rowcall.error_reason,
  rowcall.attempts_in_words
to rowcall_tenant_reader, rowcall_auditor;
