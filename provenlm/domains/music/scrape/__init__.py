"""Define the stage scrape for symbolic music."""
