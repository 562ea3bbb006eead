"""`python -m serving.cli`: the same as `pulsebms`, for child processes."""

from serving.cli import main

main()
