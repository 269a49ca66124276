"""The methods of lifelong language models: each is one step; a new method goes in a file of its
own."""

from l2kd_ray.families.language.methods.regularised import ewc, gem, mas
from l2kd_ray.families.language.methods.stream import finetune, l2kd, lamol, lamol_real, sdft
from l2kd_ray.families.method import by_name

LANGUAGE_METHODS = by_name(finetune, lamol, lamol_real, l2kd, sdft, ewc, mas, gem)
