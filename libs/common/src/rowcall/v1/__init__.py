"""Generated: the messages, services and error reasons of `rowcall.v1`."""
