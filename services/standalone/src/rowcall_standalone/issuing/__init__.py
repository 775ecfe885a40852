"""The issuer of tokens that `rowcall dev --identity jwt` plays, so that trying out credentials costs a minute.

Here: `issuer` (its key and files in the data directory) and `tokens` (what `rowcall token` prints). Not for production: whoever
reads the data directory can be everybody.
"""
