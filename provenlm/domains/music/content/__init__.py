"""Read, write and measure scores; every stage of the domain uses this."""
