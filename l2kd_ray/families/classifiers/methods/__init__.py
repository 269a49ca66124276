"""The methods of classifiers; a new method goes in a file of its own."""

from l2kd_ray.families.classifiers.methods.metakd import metakd, metakd_stream
from l2kd_ray.families.classifiers.methods.mkd import mkd
from l2kd_ray.families.method import by_name

CLASSIFIER_METHODS = by_name(mkd, metakd, metakd_stream)
