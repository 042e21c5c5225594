"""Sources → typed examples → a cleaned, split, memory-mapped folder."""
