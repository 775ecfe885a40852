-- Records where a new tenant lives, unless somebody was faster; read it again to know.
insert into rowcall_catalogue.tenant (tenant, shard, epoch)
values (%(tenant)s, %(shard)s, %(epoch)s)
on conflict (tenant) do nothing
