delete from documents.chunk
where tenant = %(tenant)s
  and document_id = %(document_id)s
