-- A revision of an image; 0: the latest.
select i.revision, i.digest, i.content
from rowcall_catalogue.read_image(%(name)s, %(revision)s) i
