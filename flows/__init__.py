"""Define the Prefect flows with schedules, retries, limits and notifications."""
