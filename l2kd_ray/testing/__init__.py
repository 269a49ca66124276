"""Conformance checks for plug-ins, stores and executors, with tiny studies to run them.

from l2kd_ray.testing.plugins import check_method
"""
