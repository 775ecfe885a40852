-- Which server it is, by whatever name it is reached. A managed one may not say.
select c.system_identifier::text as server from pg_control_system() c
