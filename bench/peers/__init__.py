"""The servers that are measured, and the modules that they share."""
