"""The agents that come with the package: one file each."""
