"""Floor 1: audits and bounds in, verdicts, pages and plots out. No number is written here; every one is cited."""
