"""Foreground boxes: their geometry, and the object detectors."""
