"""One file a table: its cells as a reader sees them, and the rows of its CSV file."""
