"""`python -m actorfw`: the same as the command `actorfw`."""

from actorfw.cli import main

if __name__ == "__main__":
    main()
