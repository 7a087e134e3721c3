import zprl  # noqa: F401 - its guard (zprl.native) comes before torch, as in every process of its own
