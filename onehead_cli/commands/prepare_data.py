def prepare_data() -> None:
    """Stub."""
