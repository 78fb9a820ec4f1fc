"""`python -m onehead_cli` works as `onehead` does."""

from onehead_cli.app import main

main()
