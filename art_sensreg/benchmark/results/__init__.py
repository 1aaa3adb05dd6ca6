"""What a run leaves behind: its files, tables and report."""
