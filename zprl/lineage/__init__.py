"""From a policy back to the bytes of each demonstration, and from a demonstration forward to every policy that used it.

:mod:`~zprl.lineage.records` is what is known, :mod:`~zprl.lineage.walk` the walk over it (pure functions); records come from the tracking
store (:mod:`zprl.tracking.lineage`) and from what lies here (:mod:`~zprl.lineage.local`).
"""
