"""The process in which Isaac Gym Preview 4 runs, in Python 3.8 and with nothing else of zprl.

:mod:`zprl.envs.isaacgym.client` starts ``worker.process`` as a module; here it is the package
``worker``, whose modules import each other relatively.  Nothing newer than Python 3.8 stands in it.
"""
