"""The sentences for what `analysis` returns as values: notes, advice, and a stop rule's verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan

from l2kd_ray.analysis import (
    Advice,
    Caveat,
    Doubt,
    Flaw,
    NoInterval,
    Note,
    OrderPopulation,
    Outcome,
    Reach,
    Undefined,
    Verdict,
)
from l2kd_ray.analysis.foresight import Foresight
from l2kd_ray.analysis.looks import Seen, joint_level
from l2kd_ray.analysis.shares import BASELINE
from l2kd_ray.report.blocks import text
from l2kd_ray.report.labels import count, level_label, method_label, setting_label

_QUALIFIERS = {
    OrderPopulation.RANDOM: "drawn at random: holds for all {possible:,}",
    OrderPopulation.UNFAILED: "holds for the orders that did not fail",
    OrderPopulation.WILLIAMS: "a Williams design: model-based, as if they were drawn at random",
    OrderPopulation.LISTED: "holds for these only",
}
_DOUBTS: Mapping[Flaw, tuple[str, str]] = {
    Flaw.BOUND_BELOW_SINGLE: (
        "Multi-task is below single-task",
        "so a gap to it is not to an upper bound; train longer (train.epochs or train.steps)",
    ),
    Flaw.BOUND_AT_MAJORITY: (
        "Multi-task does not differ reliably from always answering the majority label",
        "so a gap to it says little; train longer (train.epochs or train.steps)",
    ),
    Flaw.BOUND_UNTRAINED: (
        "Multi-task does not differ reliably from the untrained model",
        "so a gap to it says little; train longer (train.epochs or train.steps)",
    ),
    Flaw.ONE_ANSWER: ("One answer to nearly all test examples", ""),
    Flaw.LEARNT_NOTHING: (
        "Right after learning a task, no reliable difference from the untrained model",
        "train longer (train.epochs or train.steps)",
    ),
    Flaw.REPLAY_INVALID: (
        "Replay is hardly ever valid",
        "so it cannot keep former tasks; see Replay quality",
    ),
    Flaw.SEED_COLLAPSED: (
        "A seed has collapsed",
        "so a mean over seeds describes none of them",
    ),
    Flaw.SEED_OUTLYING: (
        "A seed lies far from the others",
        "so look at the seeds' own means (What drives the gap) before relying on an interval",
    ),
}
_MOST_NAMED = 6
"""Largest number of methods and tasks that a doubt names."""
_NO_FINISHED_ORDER = "no order is finished for all methods and seeds"
UNDEFINED = {
    Undefined.NO_COMPLETE_TRIAL: "no trial is complete with its multi-task score",
    Undefined.NO_FINISHED_ORDER: _NO_FINISHED_ORDER,
    Undefined.RATIO_TO_ZERO: "undefined, as it is a ratio to 0",
    Undefined.RATIO_MAY_BE_TO_ZERO: "undefined, as the interval of what it is a share of holds 0",
    Undefined.IS_BASELINE: "the baseline",
    Undefined.NO_SHARED_INSTANCE: f"no complete instance is shared with {BASELINE}",
    Undefined.BASELINE_UNBOUNDED: f"undefined, as {BASELINE} has no interval",
    Undefined.BASELINE_MAY_BE_ZERO: f"undefined, as the interval of {BASELINE}'s own gap holds 0",
    Undefined.BASELINE_ABOVE_BOUND: f"undefined, as {BASELINE} ends above multi-task",
}
NO_INTERVAL = {
    NoInterval.ONE_SEED: "one seed: no interval",
    NoInterval.LONE_SEED: (
        "no interval, as no other seed ran in the streams that one ran in: give all the same seeds"
    ),
    NoInterval.ONE_ORDER: "no interval, as one order shows no spread over orders",
    NoInterval.SEEDS_ALIKE: "no interval, as all seeds agree: how far they differ is not known",
    NoInterval.SEEDS_DIFFER: "unfinished: the seeds have run different orders, no interval",
}
CAVEATS = {
    Caveat.NO_DEV_SCORE: "no dev score is complete: no setting is selected",
    Caveat.PROVISIONAL: "provisional: the settings share no complete instance yet",
    Caveat.NOT_COMPARABLE: "not comparable: no instance is complete for all",
}


def note_words(note: Note, *, counted: bool = False) -> str:
    """A note as one clause or more; `counted` leaves out the numbers of orders and seeds."""
    if note.undefined is Undefined.BASELINE_UNBOUNDED:
        why = note_words(replace(note, undefined=None), counted=counted)
        return f"{UNDEFINED[note.undefined]} ({why})"
    return "; ".join(_clauses(note, counted))


def _clauses(note: Note, counted: bool) -> Iterator[str]:
    if note.undefined:
        yield UNDEFINED[note.undefined]
    if note.reach and note.no_interval:  # and so holds for nothing but itself
        if not counted:
            yield f"{note.reach.ran:,} of {count(note.reach.possible, 'order')}"
    elif note.reach and (reach := qualifier(note.reach) if counted else reach_words(note.reach)):
        yield reach
    if note.left_out:
        yield f"{note.left_out} left out, as a trial failed or has no score on them"
    if note.descriptive:
        done, planned = note.descriptive
        yield f"descriptive: {done} of {planned} trials, {_NO_FINISHED_ORDER}"
    if note.no_interval:
        alone = counted and note.no_interval is NoInterval.ONE_SEED
        yield "no interval" if alone else NO_INTERVAL[note.no_interval]
    if note.look:
        yield f"a planned look, level {level_label(note.look)}: all looks together hold at 95 %"
    if note.first_look:
        yield f"no interval before the first planned look, at {note.first_look} orders"


def reach_words(reach: Reach) -> str:
    """The number of orders and the population that a mean over them holds for."""
    if reach.kind is OrderPopulation.NONE:
        return "seeds alone, as there is no order"
    if reach.kind is OrderPopulation.ALL:
        return f"all {reach.ran:,} orders" if reach.ran > 1 else "the one order that there is"
    own = reach.kind in (OrderPopulation.LISTED, OrderPopulation.UNFAILED)
    mark = ":" if own else ","
    return f"{reach.ran:,} of {reach.possible:,} orders{mark} {qualifier(reach)}"


def qualifier(reach: Reach) -> str:
    """The population that a mean over some orders holds for; "" for a mean over all."""
    return _QUALIFIERS.get(reach.kind, "").format(possible=reach.possible)


def advice_words(advice: Advice) -> str:
    """Advice on what to run next, with the expected half-widths."""
    now, seeds = f"now {advice.now:.2g}", f"about {advice.more_seeds:.2g} points either side"
    if not advice.orders:
        return (
            "More seeds: every order of the study has run, and only seeds can narrow the interval "
            f"(one more: {seeds}; {now})."
        )
    orders = "1 more order" if advice.orders == 1 else f"{advice.orders:,} more orders"
    either = (
        f"{seeds} with one more seed ({advice.seed_trials:,} trials), {advice.more_orders:.2g} "
        f"with {orders} ({advice.order_trials:,} trials; {now})."
    )
    if advice.seeds == 2:
        return f"A third seed: with two, the spread over seeds is hardly known; {either}"
    return f"More {'orders' if advice.more_orders < advice.more_seeds else 'seeds'}: {either}"


def apart_words(detectable: float, at_most: float) -> str:
    """The difference that would have been found, and the one that is excluded, of no decision."""
    return (
        f"no difference is established; one of {text(detectable)} points would have been found "
        f"with 80 % power, and one of more than {text(at_most)} either way is excluded"
    )


def flip_words(seeds: int, pairs: int, needed: float) -> str:
    """The reason for which there is no sign-flip test; `needed`: seeds that would do, or NaN."""
    if needed > seeds:
        of = f" for {pairs} pairs together" if pairs > 1 else ""
        return (
            f"No sign-flip test: with {seeds} seeds it cannot go below 0.05{of}, whatever the "
            f"difference; {needed:.0f} seeds are the fewest that can."
        )
    return (
        "No sign-flip test: it would be of the orders that ran alone, and not of those that the "
        "intervals hold for."
    )


def top_k_words(bias: Mapping[str, float]) -> str:
    """How far teaching by a teacher's most likely tokens is off, at one temperature."""
    return (
        f"kd.top_k at T = {bias['temperature']:g}: the kept tokens have {bias['mass']:.0%} of the "
        f"teacher's probability; a first gradient is off by {bias['error']:.0%} of its norm "
        f"(cosine {bias['cosine']:.2f})"
    )


def doubt_words(doubts: Sequence[Doubt]) -> Iterator[str]:
    """One notice for each flaw found, with the methods, tasks and numbers; **strong** is marked."""
    for flaw, (title, consequence) in _DOUBTS.items():
        found = [_doubtful(doubt) for doubt in doubts if doubt.flaw is flaw]
        if found:
            named = ", ".join(found[:_MOST_NAMED])
            more = f" and {len(found) - _MOST_NAMED:,} more" if len(found) > _MOST_NAMED else ""
            yield f"**{title}:** {named}{more}" + (f"; {consequence}." if consequence else ".")


def _doubtful(doubt: Doubt) -> str:
    """`l2kd (kd.temperature 2) on agnews (13.0 against 24.3)`."""
    setting = setting_label(doubt.setting)
    words = method_label(doubt.method) + (f" ({setting})" if setting else "")
    words = doubt.task if doubt.flaw.of_bound else words
    words += f", seed {doubt.seed}" if doubt.seed else ""
    words += f" on {doubt.task}" if doubt.task and not doubt.flaw.of_bound else ""
    if doubt.flaw in (Flaw.ONE_ANSWER, Flaw.REPLAY_INVALID):
        return f"{words} ({text(doubt.value, 0)} %)"
    return f"{words} ({text(doubt.value)} against {text(doubt.against)})"


def device_words(devices: Mapping[str, int]) -> Iterator[str]:
    """A notice if a study's stages were computed on different devices; **strong** is marked."""
    if len(devices) > 1:
        named = ", ".join(f"{count(n, 'stage')} on {name}" for name, n in sorted(devices.items()))
        yield (
            f"**Different devices:** {named}; where a device draws (dropout) or rounds in its own "
            "way, a difference between methods is one between devices, too."
        )


def foresight_words(found: Foresight) -> str:
    """The expected precision of a plan, from what has run."""
    told = ""
    if not isnan(found.detectable):
        told = (
            f", and would find a difference of {text(found.detectable)} points between methods "
            "with 80 % power"
        )
    source = "for the given standard deviations"
    if found.pilot is not None:
        orders, seeds = found.pilot
        source = f"from the {count(orders, 'order')} x {count(seeds, 'seed')} that are stored"
    elif isnan(found.half_width):
        return "One seed has no interval, whatever the standard deviations."
    return (
        f"Expected {source}: the whole study tells a gap to about {text(found.half_width)} points "
        f"either side{told}."
    )


def selected_words(selected_of: Mapping[str, int]) -> str:
    """The bias of gaps whose setting was selected by the same seeds' dev scores; "" of none."""
    each = ", ".join(
        f"{method_label(name)}'s setting is the best of {n:,}"
        for name, n in selected_of.items()
        if n > 1
    )
    if not each:
        return ""
    return (
        f"{each}, chosen by the dev scores of the very seeds whose test scores stand here. So the "
        "gap is smaller than with new seeds, and its interval is too narrow; search.select_on with "
        "seeds: half chooses by one half of the seeds and reports the other"
    )


def looked_words(former: Sequence[Seen]) -> str:
    """The level that is left where seeds or orders were added to a study that had been read."""
    sizes = ", ".join(
        f"{count(one.planned, 'order')} x {count(len(one.seeds), 'seed')}" for one in former
    )
    times = len(former) + 1
    return (
        f"the intervals were shown at {sizes}, and the study has grown since. If it grew for what "
        f"they said, read 95 % as {level_label(joint_level(times))}, and compare a p with 0.05 / "
        f"{times}"
    )


def verdict_words(verdict: Verdict) -> str:
    """A stop rule's decision, with the method, the metric and the numbers."""
    what = f"{verdict.metric} of {verdict.method}"
    eps, planned = f"{verdict.eps:g}", verdict.planned
    if verdict.outcome is Outcome.ONE_SEED:
        return f"{what}: one seed has no interval, so half_width {eps} is never reached; add seeds"
    if verdict.look is None:
        first = f"{verdict.finished} of the {verdict.first_look} orders of the first look"
        return f"{what}: {first} are finished"
    half = f"half-width {verdict.look.estimate.half_width:.3g}"
    found = f"{what}: {half} after {verdict.look.orders} of {planned} orders"
    final = f"all {planned} orders would leave about {verdict.final_half_width:.3g}"
    known = verdict.seeds_needed is not None and verdict.seeds_needed > verdict.seeds
    seeds = f"about {verdict.seeds_needed} seeds would do" if known else "add seeds"
    if verdict.outcome is Outcome.REACHED:
        return f"{found}, at most {eps}"
    if verdict.outcome is Outcome.NO_ORDER_LEFT:
        price = f"; the looks before have made it {verdict.price:.2g} times as wide"
        wider = price if verdict.price > 1 else ""
        return f"{found}, above {eps}, and no planned order is left; {seeds}{wider}"
    if verdict.outcome is Outcome.OUT_OF_REACH:
        return (
            f"{found}; {eps} is out of reach with {verdict.seeds} seeds: {final}, and hardly less "
            f"than {verdict.least_half_width:.3g}; {seeds}"
        )
    return f"{found}, above {eps}; {final}"
