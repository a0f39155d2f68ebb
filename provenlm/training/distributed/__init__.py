"""Train with several processes: launcher, collectives, FSDP."""
