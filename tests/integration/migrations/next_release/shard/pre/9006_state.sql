-- A state more. It is understood from this version on, and written from the next: the release before would not know it.
-- The check is not held against the rows that are there, which it cannot refuse, so that nobody waits for that.
set local role rowcall_owner;

do $$
declare
  v_check text := (
    select pg_get_constraintdef(c.oid) from pg_constraint c where c.conrelid = 'rowcall.job'::regclass and c.conname = 'job_state_check'
  );
begin
  alter table rowcall.job drop constraint job_state_check;
  execute format(
    'alter table rowcall.job add constraint job_state_check %s not valid', pg_temp.rewritten(v_check, 'ARRAY\[', 'ARRAY[99, ')
  );
end
$$;
