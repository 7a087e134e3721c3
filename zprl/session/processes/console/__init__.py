"""The operator's page: one web page for the person beside the robot.

``state`` is the contract between a session and the page, ``security`` keeps others out, ``app`` is
the application, ``serve`` runs it.
"""
