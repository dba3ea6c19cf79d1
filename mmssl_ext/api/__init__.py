"""What a script calls: one function for each thing that a user wants done."""
