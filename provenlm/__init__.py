"""Train small sequence models from scratch, with a report in which every number cites its evidence."""
