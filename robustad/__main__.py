"""`python -m robustad` is the `robustad` command."""

from robustad.cli import main

if __name__ == "__main__":
    main()
