"""Conformance suites for what others bring: plug-ins, stores, executors; tiny studies to run them.

from l2kd_ray.testing.plugins import check_method
"""
