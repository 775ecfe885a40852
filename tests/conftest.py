"""Loads the fixtures, which are kept in files by subject."""

pytest_plugins = [
    "tests.fix_commands",
    "tests.fix_logs",
    "tests.fix_channel",
    "tests.fix_images",
    "tests.fix_postgres",
    "tests.fix_dev",
    "tests.fix_pooler",
    "tests.fix_cluster",
    "tests.fix_standby",
    "tests.fix_queue",
    "tests.fix_worker",
    "tests.fix_gateway",
    "tests.fix_services",
    "tests.fix_envoy",
    "tests.fix_prometheus",
    "tests.fix_otelcol",
    "tests.fix_serving",
    "tests.fix_spans",
]
