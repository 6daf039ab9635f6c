"""What a client optimises and how it is scored."""
