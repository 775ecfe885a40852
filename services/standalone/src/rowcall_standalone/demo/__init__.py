"""`rowcall demo`: the main job on real input, as a caller sees it. Entered by `rowcall_standalone.commands`.

Here: `run` (from start to end), `steps` (what is done), `caller` (its client), `system` with `processes` (what it calls), `corpus` and
`questions` (its input), `example` (the servicer), `report` and `further` (what it tells).
"""
