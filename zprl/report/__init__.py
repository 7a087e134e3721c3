"""One self-contained page about a run of the pipeline, and its figures."""
