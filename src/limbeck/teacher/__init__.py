"""The model that is imitated, and the store that keeps its vectors."""
