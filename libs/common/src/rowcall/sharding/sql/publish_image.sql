-- Publishes an image, if it was compared with the latest revision; no row: it was not.
select p.revision, p.number, p.published_at
from rowcall_catalogue.publish_image(
  %(name)s, %(base)s, %(digest)s, %(content)s, %(actor)s, %(note)s
) p
