"""The worker: claims queue rows, runs ordinary generated servicers, settles the rows."""
