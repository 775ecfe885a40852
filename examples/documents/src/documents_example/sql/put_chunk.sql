insert into documents.chunk (
  tenant, document_id, ordinal, heading, body, first_line, last_line, search, words, embedding
)
select
  %(tenant)s,
  %(document_id)s,
  %(ordinal)s,
  %(heading)s,
  %(body)s,
  %(first_line)s,
  %(last_line)s,
  vector.search,
  (select coalesce(sum(cardinality(lexeme.positions)), 0) from unnest(vector.search) as lexeme),
  documents.to_embedding(%(embedding)s::real[])
from (
  select
    setweight(to_tsvector('english', %(path_words)s), 'A')
    || setweight(to_tsvector('english', %(heading_words)s), 'B')
    || to_tsvector('english', %(body_words)s) as search
) as vector
