"""From the numbers of an evaluation to what people see: tables, figures, files and one HTML page."""
