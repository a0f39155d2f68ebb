"""WHEN: Prefect flows: order, schedule, retries, who is told. No arithmetic, no torch."""
