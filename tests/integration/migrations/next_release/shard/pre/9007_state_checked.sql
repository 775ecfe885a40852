-- In a file of its own, for it reads the whole table: under a lock that stops no writer.
set local role rowcall_owner;
alter table rowcall.job validate constraint job_state_check;
