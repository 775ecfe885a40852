"""What went wrong by our own fault, for triage: values (`model`), which failures are the same (`fingerprints`), and what gathers them in
a process and writes them when it can (`recorder`).

Best effort, and nothing else waits for it. Nothing of payloads is in it, nor any exception's text, which may hold some. Used by the
gateway's interceptor and the worker's executor, which note, and by the gateway's ErrorService, which shows.
"""
