"""`python -m holonomy` is the command line."""

from holonomy.cli.main import run

if __name__ == "__main__":
    run()
