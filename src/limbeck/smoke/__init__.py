"""A recipe at its true size for a few steps, with stand-ins for whatever is not on this machine."""
