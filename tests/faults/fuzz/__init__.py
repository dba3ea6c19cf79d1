"""A fuzz of every reader of files from elsewhere: ``python -m tests.faults.fuzz``.

Valid files are damaged at random and by what is known to hurt parsers. Every input must
end in a result or in one of the documented errors, whose message names the file; within
a time and a memory limit, and without running anything that stands in it.
"""
