"""Experiments: runs of one recipe that differ in a few lines, what they come to, and a page that says so."""
