"""Loads the fixtures, which are kept in files by subject."""

pytest_plugins = ["tests.fix_postgres"]
