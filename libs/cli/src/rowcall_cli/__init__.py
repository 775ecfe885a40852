"""The `rowcall` command: operators' commands, and the development system when it is installed."""
