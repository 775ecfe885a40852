"""The documents example: a job package that ingests text files and answers questions over them."""
