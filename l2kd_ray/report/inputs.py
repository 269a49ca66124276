"""Inputs of a report beside the scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from l2kd_ray.analysis import Design, Doubt, Halves, Instance, Verdict
from l2kd_ray.analysis.extreme import OrderSearch
from l2kd_ray.analysis.looks import Seen
from l2kd_ray.study.data import SplitData


@dataclass(frozen=True)
class Inputs:
    """The keyword arguments of `write_report`."""

    study: Mapping[str, Any]
    """The resolved study file."""
    design: Design | None = None
    """The orders and seeds of the study; without it intervals hold for what has run."""
    failed: Collection[Instance] = ()
    """Trials that will never finish."""
    stopping: bool = False
    """True if a stop rule could end, or has ended, the study before its last order."""
    split: Halves | None = None
    """Both halves where settings were selected on one; the other one is the design."""
    planned: Mapping[str, int] = field(default_factory=dict)
    """Progress of the study: trials, trials_done, stages, stages_done; all optional."""
    failures: Sequence[Mapping[str, Any]] = ()
    """Failed stages: key, kind, error, traceback."""
    costs: pd.DataFrame | None = None
    """One row for each kind of stage: kind, stages, seconds; where known, `peak_gb`, the most
    memory of a process, and `unshared`: how many stages the trials would take without sharing."""
    work: pd.DataFrame | None = None
    """One row for each method and setting: method, setting, and steps, tokens, tokens sampled by
    students and seconds of a trial without sharing; where known, its student's parameters and
    latency."""
    spent: pd.DataFrame | None = None
    """One row for each method and setting: method, setting, core_hours, gpu_hours, usd, of all its
    stages, each once; and `prices`, the words that say where the prices are from."""
    forgotten: pd.DataFrame | None = None
    """Rows of `analysis.forgotten` for one trial of each method, on one order and seed."""
    curves: pd.DataFrame | None = None
    """The training curves of the same trials (`study.curves.curves_of`)."""
    command: str = ""
    """The command that runs this study again."""
    replay: pd.DataFrame | None = None
    """One row for each replay stage and trial: method, setting, order, seed, i (how many tasks the
    student that wrote it had learned), written, kept, and in per cent any of valid, ended,
    duplicates, task_match, copies, distinct_1, distinct_2."""
    samples: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
    """Lines of samples.jsonl, by method: task, question and answer (or text), faults."""
    over_examples: pd.DataFrame | None = None
    """The part of a gap's variance due to test examples: method, setting, variance, df."""
    notes: Sequence[str] = ()
    """Notices at the top; **strong** is marked."""
    devices: Mapping[str, int] = field(default_factory=dict)
    """Number of finished stages by the card that computed them, or `CPU`."""
    doubts: Sequence[Doubt] = ()
    """Reasons to doubt the gaps, shown above the headline."""
    data: Sequence[SplitData] = ()
    """The data of each task and split."""
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By arm, the settings of the paper that its method comes from, by dotted name."""
    methods: Mapping[str, str] = field(default_factory=dict)
    """By arm, what its method is, in a sentence."""
    divergences: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By method, the built-in divergences that its students are distilled by."""
    top_k: Sequence[Mapping[str, float]] = ()
    """How far `kd.top_k` is off, a temperature each: temperature, mass, error, cosine."""
    looks: Sequence[Seen] = ()
    """The smaller plans that the study was read under before."""
    retention: pd.DataFrame | None = None
    """The measures of retention (`Study.retention`), where the study has any."""
    objectives: pd.DataFrame | None = None
    """The objectives of each setting on dev (`study.objectives`), where a search had two."""
    order_search: OrderSearch | None = None
    """The findings of a search over orders."""
    verdict: Verdict | None = None
    """The stop rule's verdict at the last look."""
