"""`rowcall demo`: the main job on real input, as a caller sees it. Entered by `rowcall_standalone.commands`."""
