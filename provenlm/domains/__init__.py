"""Define the domains: a folder for each kind of data."""
