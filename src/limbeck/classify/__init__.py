"""Classifiers on frozen vectors: few-shot, zero-shot, calibrated; as files, on the command line, in scikit-learn."""
