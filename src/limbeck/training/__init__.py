"""Stages that change weights, and the one loop that they share."""
