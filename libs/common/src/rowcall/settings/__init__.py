"""Settings: what gateway, worker, standalone and commands are told by environment and flags when they start.

A program defines a class upon `ClusterSettings` and calls `load_settings` with it.

Here: `model` (what they share), `load` (reads, and refuses with everything that is wrong), `flags` (the command line), `names` (every
ROWCALL_ variable), `files` (files that are read again when they change), `values` (durations, lists, mappings), `dsn` (connection strings), `problems` (what is wrong, for people).
"""

from rowcall.settings.dsn import Dsn, DsnText, parse_dsn, redact, unverified_hosts, with_password_file
from rowcall.settings.load import load_settings, read_settings, unknown_settings
from rowcall.settings.model import ClusterSettings, LogSettings, PoolSize, ProcessCount, Settings, TraceSettings
from rowcall.settings.problems import Problem, SettingsError, refuse
from rowcall.settings.values import Duration, ReadableFile, ReadableFiles

__all__ = [
    "ClusterSettings",
    "Dsn",
    "DsnText",
    "Duration",
    "LogSettings",
    "PoolSize",
    "Problem",
    "ProcessCount",
    "ReadableFile",
    "ReadableFiles",
    "Settings",
    "SettingsError",
    "TraceSettings",
    "load_settings",
    "parse_dsn",
    "read_settings",
    "redact",
    "refuse",
    "unknown_settings",
    "unverified_hosts",
    "with_password_file",
]
