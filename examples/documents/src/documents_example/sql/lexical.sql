-- The chunks that share words with the question, ranked by BM25 (Robertson and Zaragoza, "The Probabilistic Relevance
-- Framework: BM25 and Beyond", 2009): a word counts more the fewer of the tenant's chunks have it, which ts_rank does
-- not know. k1 = 1.2, b = 0.5: chunks are of like size, so their length says little. A word in the path or the heading
-- counts as several in the body.
with question as (
  select array_agg(lexeme) as lexemes, string_agg(quote_literal(lexeme), ' | ')::tsquery as query
  from unnest(to_tsvector('english', %(question_words)s))
), corpus as (
  select count(*)::double precision as chunks, greatest(avg(words), 1)::double precision as words
  from documents.chunk
  where tenant = %(tenant)s
), occurrence as (
  select
    chunk.document_id,
    chunk.ordinal,
    chunk.words,
    document.weight as document_weight,
    found.lexeme,
    (
      select sum(case weight when 'A' then 2.0 when 'B' then 1.5 else 1.0 end)
      from unnest(found.weights) as weight
    )::double precision as weight
  from documents.chunk
  join documents.document using (tenant, document_id)
  cross join question
  cross join lateral unnest(chunk.search) as found
  where chunk.tenant = %(tenant)s
    and chunk.search @@ question.query
    and found.lexeme = any(question.lexemes)
), rarity as (
  select lexeme, ln(1 + (corpus.chunks - count(*) + 0.5) / (count(*) + 0.5)) as weight
  from occurrence
  cross join corpus
  group by lexeme, corpus.chunks
)
select occurrence.document_id, occurrence.ordinal
from occurrence
join rarity using (lexeme)
cross join corpus
group by occurrence.document_id, occurrence.ordinal, occurrence.document_weight
order by
  occurrence.document_weight * sum(rarity.weight * occurrence.weight * 2.2
    / (occurrence.weight + 1.2 * (0.5 + 0.5 * occurrence.words / corpus.words))) desc,
  occurrence.document_id,
  occurrence.ordinal
limit %(limit)s
