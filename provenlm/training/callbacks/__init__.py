"""Monitors see every step and may only ask to stop; one small file each."""
