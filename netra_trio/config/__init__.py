"""Configuration: the settings, their sources, the origin policy, and service discovery."""
