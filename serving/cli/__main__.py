"""`python -m serving.cli`: the same as `pulsebms`, for child processes."""

from serving.cli import main

if __name__ == "__main__":  # policy processes import this module without running it
    main()
