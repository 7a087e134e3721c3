import zprl  # noqa: F401 - its guard (zprl.safe_torch_import) comes before torch, as in every process of its own
