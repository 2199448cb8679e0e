"""What the report and the overlays show of a finished run."""
