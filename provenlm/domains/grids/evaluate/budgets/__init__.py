"""Run tasks in worker processes with limits of time and memory."""
