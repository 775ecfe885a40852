-- Publishes an image, if it was compared with the latest revision, and records who did; no row: it was not.
select p.revision, p.number, p.published_at
from rowcall_catalogue.publish_image(
  %(name)s, %(base)s, %(digest)s, %(content)s, %(actor)s, %(note)s, %(rolled_back_to)s::bigint, %(act)s::jsonb
) p
