"""What the stages share: settings, datasets, safe files, cubes, metrics, pictures."""
