"""What version 0.1 computed and wrote; see README.md."""
