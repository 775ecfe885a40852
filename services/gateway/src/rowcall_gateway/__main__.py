"""`python -m rowcall_gateway`: the command rowcall-gateway."""

from rowcall_gateway.main import main

main()
