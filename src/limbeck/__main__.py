"""`python -m limbeck`: what launchers of many processes start, which ask for a module."""

from limbeck.cli import main

if __name__ == "__main__":
    main()
