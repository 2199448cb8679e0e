"""What the report and the films show of a finished run."""
