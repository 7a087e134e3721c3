"""The operator's page: one web page for the person beside the robot.

``snapshot`` is the contract between a session and the page, ``snapshot_builder`` fills it from the
bus and the disk, ``access``, ``request_guard`` and ``rate_limits`` keep strangers out, ``app`` is
the application, ``serve`` and ``connections`` run it.
"""
