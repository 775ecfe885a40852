-- Says that a gateway lives, and tells it what was published after a number.
select i.name, i.revision, i.digest, i.number
from rowcall_catalogue.images_after(%(gateway_id)s, %(name)s, %(version)s, %(deployed)s::text, %(number)s) i
