-- A page of what was published, the latest first.
select i.name, i.revision, i.digest, i.number, i.published_at, i.actor, i.note, i.latest
from rowcall_catalogue.list_images(%(name)s, %(below)s::bigint, %(limit)s) i
