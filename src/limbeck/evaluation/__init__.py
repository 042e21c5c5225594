"""Scores of held-out retrieval, and the report that shows them."""
