def evaluate() -> None:
    """Stub."""
