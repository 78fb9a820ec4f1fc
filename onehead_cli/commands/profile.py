def profile() -> None:
    """Stub."""
