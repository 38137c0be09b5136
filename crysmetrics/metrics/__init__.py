"""Arrays to numbers: one module for each family of metrics."""
