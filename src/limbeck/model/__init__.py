"""The student: backbone, pooling, prefixes, encoder and the bundle on disk."""
