"""Monocular depth as a fourth task of onehead."""
