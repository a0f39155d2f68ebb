"""Look at sources and write the first entries of a project."""
