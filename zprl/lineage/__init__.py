"""Lineage: from a policy back to the bytes of each demonstration, and forward from these.

:mod:`~zprl.lineage.records` holds what is known, :mod:`~zprl.lineage.walk` the walk over it (pure
functions); records come from the tracking store (:mod:`zprl.tracking.lineage`) and from the
project's folder (:mod:`~zprl.lineage.local`).
"""
