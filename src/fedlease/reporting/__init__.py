"""Run folder, tables, terminal: everything that writes or prints."""
