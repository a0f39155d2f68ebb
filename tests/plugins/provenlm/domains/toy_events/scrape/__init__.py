"""Define the stage scrape of the toy domain."""
