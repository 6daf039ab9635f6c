"""What one does with a finished run."""
