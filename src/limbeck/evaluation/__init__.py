"""Held-out scores of the four tasks, and the report that shows them."""
