"""Reading, checking and completing configs."""
