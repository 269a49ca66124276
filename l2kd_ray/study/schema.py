"""The frame of a study: tasks, orders, seeds, methods, search, scale, storage.

The settings of its methods (`kd`, `train`, ...) belong to their family (`families.settings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, product
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    field_validator,
    model_validator,
)

from l2kd_ray.core.randomness import Seed
from l2kd_ray.errors import InputError
from l2kd_ray.families import Family
from l2kd_ray.families.settings import Settings
from l2kd_ray.names import MULTITASK, REFERENCES, SINGLE
from l2kd_ray.section import FilePath, Location, Name, Section, list_of_one
from l2kd_ray.study.consistency import check
from l2kd_ray.study.sections import (
    Arm,
    CrossedSeeds,
    EventSettings,
    Grid,
    OrdersSetting,
    Range,
    Retention,
    Scale,
    SearchOrders,
    Seeds,
    TuneSettings,
    WandbSettings,
    check_mirror,
    mirror_names,
)
from l2kd_ray.tasks.spec import TaskSpec


class ArmsOnly(Section):
    """The methods of a study, read first because they determine the family of the other keys."""

    methods: tuple[Arm, ...] = (
        Arm(name="finetune", method="finetune"),
        Arm(name="lamol", method="lamol"),
        Arm(name="l2kd", method="l2kd"),
    )

    _one_is_a_list = field_validator("methods", mode="before")(list_of_one)

    @model_validator(mode="after")
    def _references(self) -> Self:
        for arm in self.methods:
            if arm.name in (MULTITASK, SINGLE):
                raise InputError(
                    "a reference is always run, and no other method has its name",
                    key="methods",
                    got=arm.name,
                    fix="remove it, or give the method another name",
                )
            if (arm.name == "multilm") != (arm.method == "multilm") or (
                arm.method == "multilm" and arm.settings
            ):
                raise InputError(
                    "multilm is a reference and takes neither another name nor settings",
                    key="methods",
                    got={"name": arm.name, "method": arm.method, "settings": dict(arm.settings)},
                )
        if not self.arms:
            raise InputError("a study compares at least one method", key="methods")
        return self

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that are compared with the references."""
        return tuple(arm for arm in self.methods if arm.name not in REFERENCES)


class StudyConfig(ArmsOnly):
    """The content of a study file."""

    name: Name
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    data_dir: FilePath | None = None
    orders: OrdersSetting = "all"
    seeds: Seeds | CrossedSeeds = (531,)
    data_seed: int = Field(0, ge=0)
    family: InstanceOf[Family] = Field(exclude=True)
    """The family of the methods, including plug-in methods."""
    settings: InstanceOf[Settings] = Field(exclude=True)
    """The settings of the methods."""
    max_train: int | None = Field(None, ge=1)
    max_dev: int | None = Field(None, ge=1)
    max_test: int | None = Field(None, ge=1)
    retention: Retention | None = None
    """Measures of what the students keep of what they could do before; language models only."""
    search: Mapping[str, Grid | Range] = Field(default_factory=dict)
    tune: TuneSettings = TuneSettings()
    scale: Scale = Scale()
    storage: Location = "./l2kd_results"
    keep: Literal["all", "leaves"] = "all"
    """`leaves` removes a model from which others were trained once nothing needs it any more; its
    scores and manifest remain."""
    share: bool = True
    """False: every trial runs all of its stages itself, to measure what sharing saves."""
    report_to: Annotated[
        tuple[Annotated[str, AfterValidator(check_mirror)], ...], BeforeValidator(mirror_names)
    ] = ("wandb",)
    """Where the study is shown, while it runs and at its end."""
    wandb: WandbSettings = WandbSettings()
    on_event: EventSettings | None = None

    _one_thing_is_a_list = field_validator("seeds", "tasks", mode="before")(list_of_one)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check(self)
        return self

    @property
    def orderless(self) -> bool:
        """True if no method depends on the order; a study has no methods of both kinds."""
        return all(self.family.methods[arm.method].orderless for arm in self.arms)

    @property
    def orders_arm(self) -> str | None:
        """The arm whose orders are searched; None where none are."""
        if not isinstance(self.orders, SearchOrders):
            return None
        return self.orders.method or self.arms[0].name

    @property
    def rungs(self) -> tuple[int, ...] | None:
        """Epochs after which ASHA may stop a training; None if the family has no rungs."""
        rungs: tuple[int, ...] | None = getattr(self.settings.family.train, "rungs", None)
        return rungs

    def searched_by(self, arm: Arm) -> list[str]:
        """The searched keys that an arm may read: not those that it sets itself, and not the
        options of other methods."""
        methods = self.family.methods
        own = methods[arm.method].section
        others = {one.section for one in methods.values() if one.options} - {own}
        return [
            key
            for key in self.search
            if key not in arm.settings and key.partition(".")[0] not in others
        ]

    def search_examples(self, at_once: int = 1) -> list[dict[str, Any]]:
        """Settings in which any `at_once` searched keys take each of their examples together, the
        others their first.

        One empty setting if nothing is searched.
        """
        examples = {key: space.examples() for key, space in self.search.items()}
        first = {key: values[0] for key, values in examples.items()}
        found = (
            {**first, **dict(zip(keys, values, strict=True))}
            for keys in combinations(examples, min(at_once, len(examples)))
            for values in product(*(examples[key] for key in keys))
        )
        return list({repr(setting): setting for setting in found}.values())

    def to_data(self) -> dict[str, Any]:
        """The content of the study file as it was read: only the keys that were set."""
        data = self.model_dump(mode="json", exclude_unset=True)
        data |= self.settings.family.model_dump(mode="json", exclude_unset=True)
        for key, section in self.settings.options.items():
            if section.model_fields_set:
                data[key] = section.model_dump(mode="json", exclude_unset=True)
        return data

    @property
    def replicates(self) -> tuple[Seed, ...]:
        """The seeds of the study, each an independent replicate (or a crossed one)."""
        seeds = self.seeds
        if not isinstance(seeds, CrossedSeeds):
            return tuple(map(Seed.of, seeds))
        return tuple(
            Seed(train=train, replay=replay, data=data)
            for train in seeds.train
            for replay in seeds.replay or (train,)
            for data in seeds.data or (train,)
        )
