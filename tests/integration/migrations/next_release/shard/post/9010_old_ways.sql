-- What only the release before used.
set local role rowcall_owner;
drop function rowcall.submit_jobs;
drop type rowcall.submission;
revoke execute on function rowcall.settle_jobs, rowcall.claim_jobs from rowcall_worker;
