"""Define the Prefect flows: order, schedule, retries, concurrency and notifications."""
