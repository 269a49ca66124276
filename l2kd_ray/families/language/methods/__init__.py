"""The methods of lifelong language models: each is one step; a new method goes in a file of its
own."""

from l2kd_ray.families.language.methods.adapters import o_lora, seq_lora
from l2kd_ray.families.language.methods.merge import merge
from l2kd_ray.families.language.methods.osf import osf
from l2kd_ray.families.language.methods.regularised import ewc, gem, mas
from l2kd_ray.families.language.methods.rehearsal import agem, der, real_replay
from l2kd_ray.families.language.methods.retention import lwf
from l2kd_ray.families.language.methods.ssr import ssr
from l2kd_ray.families.language.methods.stream import finetune, l2kd, lamol, lamol_real, sdft
from l2kd_ray.families.method import by_name

LANGUAGE_METHODS = by_name(
    *(finetune, lamol, lamol_real, l2kd, sdft),
    *(real_replay, ssr, lwf, der, ewc, mas, gem, agem),
    *(seq_lora, o_lora, osf, merge),
)
