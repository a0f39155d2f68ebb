"""List the stages of the pipeline, in the order of their dependencies."""

CORPUS_STAGES = ("scrape", "filter", "dedupe", "tokenize")
RECIPE_STAGES = ("train", "validate")
REPORT_STAGES = ("report",)
STAGES = (*CORPUS_STAGES, *RECIPE_STAGES, *REPORT_STAGES)
