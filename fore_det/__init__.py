"""Foreground boxes: geometry, and the object detectors."""
