"""What the stages share: settings, datasets, safe file access, cubes, metrics, pictures."""
