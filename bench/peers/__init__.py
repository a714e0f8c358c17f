"""The servers that are measured: one file each, and what some of them share."""
