"""The `onehead` script and `python -m onehead_cli`."""

from __future__ import annotations

from onehead_cli.runtime.signals import leave_on_signals


def main() -> None:
    """Run the command line and exit with its code."""
    leave_on_signals()  # before the imports, in which a signal would show where they have come to
    from onehead_cli import app

    app.main()


if __name__ == "__main__":
    main()
