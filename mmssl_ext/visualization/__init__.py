"""Curves and the HTML report of a run, made from the files in its work directory."""
