"""Scores of decoded answers in points: 0 to 100, more is better (except slot_error).

| metric | an example's score | references |
|---|---|---|
| em | exact match, after lower-casing and collapsing white space | any |
| nf1 | F of the bag of words, as SQuAD's: no case, punctuation or articles | best |
| rouge, rouge_mean | mean F of ROUGE-1, -2 and -L, stemmed | best; their mean |
| rouge_lsum, rouge_lsum_mean | the same with ROUGE-L of the summary level | best; their mean |
| sari | kept, deleted and added n-grams, against the example's context | all |
| bleu | sacreBLEU's sentence BLEU; the aggregate is corpus BLEU | all |
| dsem | whether the dialogue's state up to this turn is right (joint goal accuracy) | first |
| lfem | whether the SQL is right as (column, aggregate, set of conditions) | any |
| span_f1 | F of the labelled spans, as conlleval reads them | first |
| uas, las | words with the right head, and relation (las) | first |
| las_udeprel | as las, without the relations' subtypes | first |
| slot_error | slots missing and redundant, per 100 of the input's; less is better | none |
| f1, f1(LABEL), mcc | exact match with the label; the aggregate is over the split | first |
| pearson, spearman | closeness to the number; the aggregate is a correlation | first |

The aggregate is the mean over examples, except for corpus metrics (bleu, span_f1, uas, las,
las_udeprel, slot_error) and those of a whole split of labels (`agreement`). Accuracy of labels is
em. Words are those of `l2kd_ray.tasks.words`, in any script.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import zip_longest
from statistics import fmean
from typing import Any

from l2kd_ray.door import Plugin
from l2kd_ray.errors import InputError
from l2kd_ray.tasks import agreement, rouge, sql, tagging
from l2kd_ray.tasks.examples import Example
from l2kd_ray.tasks.labelled import number
from l2kd_ray.tasks.sari import sari
from l2kd_ray.tasks.slots import SlotErrors
from l2kd_ray.tasks.spec import Metric
from l2kd_ray.tasks.words import apart, folded

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_OF_CLASS = re.compile(r"f1\((.+)\)")
_HEAD = re.compile(r"\d+(:.*)?")
_LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.S)


@dataclass(frozen=True)
class Judged:
    """The scores of a split's predictions under one metric."""

    each: list[float]
    """The score of each example."""
    over: Callable[[Sequence[int]], float]
    """The aggregate over some of the examples (at least one), given by their indices."""


def judge(metric: Metric, predictions: Sequence[str], examples: Sequence[Example]) -> Judged:
    """Score predictions; `predictions[i]` is the decoded answer of `examples[i]`."""
    if len(predictions) != len(examples):
        raise ValueError(f"{len(predictions)} predictions for {len(examples)} examples")
    if isinstance(metric, str):
        return _built_in(metric)(predictions, examples)
    return _mean(_from_outside(metric, predictions, examples))


def _from_outside(
    metric: Plugin, predictions: Sequence[str], examples: Sequence[Example]
) -> list[float]:
    """The scores of a plug-in: (predictions, examples) -> one score per example, 0 to 100.

    Raises: ValueError if it returns anything else.
    """
    each = [float(one) for one in metric.load()(predictions, examples)]
    if len(each) != len(examples) or not all(0 <= one <= 100 for one in each):
        raise ValueError(
            f"the metric {metric.name} must return a score from 0 to 100 for each of the "
            f"{len(examples)} examples; it returned {len(each)}: {each[:5]}"
        )
    return each


def score(
    metric: Metric, predictions: Sequence[str], examples: Sequence[Example]
) -> tuple[float, list[float]]:
    """(aggregate, score of each example); the aggregate over no examples is 0."""
    judged = judge(metric, predictions, examples)
    return judged.over(range(len(examples))) if examples else 0.0, judged.each


MetricFunction = Callable[[Sequence[str], Sequence[Example]], Judged]


def is_f1_of_class(metric: str) -> bool:
    """True for `f1(LABEL)`, the F1 of a label that the study names."""
    return _OF_CLASS.fullmatch(metric) is not None


def _built_in(name: str) -> MetricFunction:
    label = _OF_CLASS.fullmatch(name)
    return METRICS[name] if label is None else _f1(label[1])


def _mean_over(
    compare: Callable[[str, str], float], choose: Callable[[Iterable[float]], float] = max
) -> MetricFunction:
    """A metric that compares a prediction with each reference and takes the best score, or their
    mean."""

    def metric(predictions: Sequence[str], examples: Sequence[Example]) -> Judged:
        return _mean(
            [
                100 * choose(compare(prediction, answer) for answer in example.answers)
                for prediction, example in zip(predictions, examples, strict=True)
            ]
        )

    return metric


def _mean(each: list[float]) -> Judged:
    return Judged(each, lambda indices: sum(each[index] for index in indices) / len(indices))


def _ratio(counts: Sequence[tuple[int, ...]], ratio: Callable[..., float]) -> Judged:
    """A ratio of counts, which are summed over the examples first."""

    def over(indices: Sequence[int]) -> float:
        return ratio(*map(sum, zip(*(counts[index] for index in indices), strict=True)))

    return Judged([ratio(*each) for each in counts], over)


def exact_match(prediction: str, reference: str) -> float:
    return float(agreement.normal(prediction) == agreement.normal(reference))


def rouge_l(prediction: str, reference: str) -> float:
    """F of ROUGE-L alone, the metric of SuperNI and of TRACE's summaries."""
    return rouge.rouge_l(rouge.words(prediction), rouge.words(reference))


def edit_similarity(prediction: str, reference: str) -> float:
    """Twice the longest common subsequence of characters over both lengths (CodeXGLUE, Py150)."""
    predicted, target = _code(prediction), _code(reference)
    return 1.0 if predicted == target else rouge.rouge_l(predicted, target)


def _code(text: str) -> str:
    """The code of which Py150 has replaced literals: `<STR_LIT:x>` is x, `<NUM_LIT>` is 0."""
    bare = text.strip().replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    return _LITERAL.sub(r"\1", bare)


def normalised_f1(prediction: str, reference: str) -> float:
    """F of the words that two texts share; two texts without words are equal."""
    predicted, target = _plain_words(prediction), _plain_words(reference)
    if not predicted or not target:
        return float(predicted == target)
    common = (Counter(predicted) & Counter(target)).total()
    return rouge.f_score(common, len(predicted), len(target))


def _plain_words(text: str) -> list[str]:
    """The words between blanks, as SQuAD's script has them: punctuation is taken away within."""
    bare = "".join(sign for sign in folded(text) if not _is_punctuation(sign))
    return apart(_ARTICLES.sub(" ", bare)).split()


@cache
def _is_punctuation(sign: str) -> bool:
    return sign in string.punctuation or unicodedata.category(sign).startswith("P")


def logical_form_match(prediction: str, reference: str) -> float:
    predicted, target = sql.parse(prediction), sql.parse(reference)
    return float(predicted is not None and predicted == target)


def parse_state(text: str) -> dict[str, str]:
    """The slots that an answer informs: "food: thai, area: north; phone" -> food and area.

    The form is decaNLP's: `slot: value` pairs before the semicolon, requests after it. Text of
    another form informs nothing.
    """
    parts = text.lower().split(";")
    pairs = [pair.split(":") for pair in parts[0].split(",")] if len(parts) == 2 else []
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}


def _joint_goal(predictions: Sequence[str], examples: Sequence[Example]) -> Judged:
    """Whether each turn's accumulated predicted state equals the accumulated gold state.

    Turns of a group come in the dialogue's order; an example without a group is a dialogue of its
    own.
    """
    states: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    scores = []
    for prediction, example in zip(predictions, examples, strict=True):
        fresh: tuple[dict[str, str], dict[str, str]] = ({}, {})
        predicted, gold = states.setdefault(example.group, fresh) if example.group else fresh
        predicted.update(parse_state(prediction))
        gold.update(parse_state(example.answers[0]))
        scores.append(100.0 * (predicted == gold))
    return _mean(scores)


def _sari(predictions: Sequence[str], examples: Sequence[Example]) -> Judged:
    """Each example's context is the text that is rewritten."""
    return _mean(
        [
            100 * sari(example.context, prediction, example.answers)
            for prediction, example in zip(predictions, examples, strict=True)
        ]
    )


def _bleu(predictions: Sequence[str], examples: Sequence[Example]) -> Judged:
    import sacrebleu

    def corpus(indices: Sequence[int]) -> float:
        # One stream for every first reference, one for every second; sacreBLEU takes None for none.
        streams: Any = list(zip_longest(*(answers[index] for index in indices)))
        return float(sacrebleu.corpus_bleu([texts[index] for index in indices], streams).score)

    # The tokenizer (13a) leaves a text without blanks whole.
    texts = [apart(prediction) for prediction in predictions]
    answers = [[apart(answer) for answer in example.answers] for example in examples]
    each = [
        sacrebleu.sentence_bleu(text, references).score
        for text, references in zip(texts, answers, strict=True)
    ]
    return Judged(each, corpus)


def _slot_error(predictions: Sequence[str], examples: Sequence[Example]) -> Judged:
    """Slot error rate (Wen et al.'s ERR); an act without slots (`goodbye()`) counts as one slot."""
    slots = SlotErrors(example.context for example in examples)
    counts = [
        slots.count(example.context, prediction)
        for prediction, example in zip(predictions, examples, strict=True)
    ]
    return _ratio(counts, lambda errors, wanted: 100 * errors / max(1, wanted))


def _of_split(
    agree: Callable[[Sequence[str], Sequence[str]], float],
    compare: Callable[[Sequence[str], Sequence[str]], list[float]],
) -> MetricFunction:
    """A metric of a whole split, with another comparison for single examples."""

    def metric(predictions: Sequence[str], examples: Sequence[Example]) -> Judged:
        given = [example.answers[0] for example in examples]

        def over(indices: Sequence[int]) -> float:
            return agree([predictions[n] for n in indices], [given[n] for n in indices])

        return Judged(compare(predictions, given), over)

    return metric


def _f1(positive: str | None) -> MetricFunction:
    """F1 of a label; without one, of that which the gold labels of the split mark as positive.

    Raises: InputError where they do not tell.
    """

    def metric(predictions: Sequence[str], examples: Sequence[Example]) -> Judged:
        def agree(predicted: Sequence[str], given: Sequence[str]) -> float:
            label = positive or agreement.positive_class(e.answers[0] for e in examples)
            if label is None:
                raise InputError("the labels do not tell which is the positive class")
            return agreement.f1(predicted, given, label)

        return _of_split(agree, _matches)(predictions, examples)

    return metric


def _matches(predictions: Sequence[str], given: Sequence[str]) -> list[float]:
    return [100 * exact_match(*pair) for pair in zip(predictions, given, strict=True)]


def _span_f1(predictions: Sequence[str], examples: Sequence[Example]) -> Judged:
    """conlleval's F; 100 if neither prediction nor gold has a span."""
    counts = [
        tagging.span_counts(prediction, example.answers[0])
        for prediction, example in zip(predictions, examples, strict=True)
    ]

    def f1(right: int, predicted: int, wanted: int) -> float:
        return 200 * right / (predicted + wanted) if predicted + wanted else 100.0

    return _ratio(counts, f1)


def _attachment(parts: int | None) -> MetricFunction:
    """The share of words with the right first `parts` of head, relation and subtype, punctuation
    included."""

    def metric(predictions: Sequence[str], examples: Sequence[Example]) -> Judged:
        counts = [
            tagging.attachment_counts(prediction, example.answers[0], parts)
            for prediction, example in zip(predictions, examples, strict=True)
        ]
        return _ratio(counts, lambda right, wanted: 100 * right / wanted if wanted else 100.0)

    return metric


LESS_IS_BETTER = ("slot_error",)
"""Metrics only shown beside a task's metric: selection takes the highest score."""
METRICS: Mapping[str, MetricFunction] = {
    "em": _mean_over(exact_match),
    "nf1": _mean_over(normalised_f1),
    "rouge": _mean_over(rouge.rouge_average),
    "rouge_l": _mean_over(rouge_l),
    "edit_similarity": _mean_over(edit_similarity),
    "rouge_mean": _mean_over(rouge.rouge_average, fmean),
    "rouge_lsum": _mean_over(partial(rouge.rouge_average, summary=True)),
    "rouge_lsum_mean": _mean_over(partial(rouge.rouge_average, summary=True), fmean),
    "sari": _sari,
    "bleu": _bleu,
    "dsem": _joint_goal,
    "lfem": _mean_over(logical_form_match),
    "slot_error": _slot_error,
    "f1": _f1(None),
    "mcc": _of_split(agreement.mcc, _matches),
    "pearson": _of_split(partial(agreement.correlation, kind="pearson"), agreement.closeness),
    "spearman": _of_split(partial(agreement.correlation, kind="spearman"), agreement.closeness),
    "span_f1": _span_f1,
    "uas": _attachment(1),
    "las_udeprel": _attachment(2),
    "las": _attachment(None),
}


@dataclass(frozen=True)
class _Comparable:
    """A property that a metric needs of an answer to compare with it."""

    test: Callable[[str], object]
    """A true value for an answer that has it."""
    needs: str


_WORDS = _Comparable(rouge.words, "a word: a letter or digit of any script")
_TREE = _Comparable(lambda text: all(map(_HEAD.fullmatch, tagging.words(text))), "heads of words")
_NUMBER = _Comparable(lambda text: number(text) is not None, "a number")
_COMPARABLE: Mapping[str, _Comparable] = {
    "nf1": _Comparable(_plain_words, "a word other than a, an and the"),
    **dict.fromkeys(("rouge", "rouge_l", "rouge_mean", "rouge_lsum", "rouge_lsum_mean"), _WORDS),
    **dict.fromkeys(("bleu", "sari"), _Comparable(str.split, "text")),
    "dsem": _Comparable(
        lambda text: ";" in text or text.strip().lower() == "none", "`slot: value, ...; requests`"
    ),
    "lfem": _Comparable(sql.parse, "`SELECT ... FROM table`"),
    "span_f1": _Comparable(
        lambda text: all(map(tagging.is_tag, tagging.words(text))), "a tag for each word"
    ),
    "uas": _TREE,
    "las_udeprel": _TREE,
    "las": _TREE,
    "pearson": _NUMBER,
    "spearman": _NUMBER,
}


@dataclass(frozen=True)
class Unscorable:
    """The examples of a split that a metric scores 0 (or 100) whatever the prediction is."""

    examples: tuple[Example, ...]
    needs: str
    """The property that no reference of theirs has; "" if the metric compares with any text."""


def unscorable(metric: Metric, examples: Sequence[Example]) -> Unscorable:
    """The examples of which no reference leaves anything to compare; none for a plug-in.

    The mean over references (`rouge_mean`, `rouge_lsum_mean`) needs all of them.
    """
    rule = _COMPARABLE.get(metric) if isinstance(metric, str) else None
    if rule is None:
        return Unscorable((), "")
    enough = all if isinstance(metric, str) and metric.endswith("_mean") else any
    found = [each for each in examples if not enough(map(rule.test, each.answers))]
    return Unscorable(tuple(found), rule.needs)


def check_references(metric: Metric, examples: Sequence[Example], *, where: str, key: str) -> None:
    """Raise InputError for a split whose score would say nothing, whatever is predicted."""
    found = unscorable(metric, examples)
    if examples and len(found.examples) == len(examples):
        raise InputError(
            f"the metric {metric} can compare with no reference of this split",
            where=where,
            key=key,
            got=examples[0].answers[0],
            expected=found.needs,
            fix="set another metric of docs/metrics.md, such as metric: em",
        )
    if metric == "f1" and agreement.positive_class(_labels(examples)) is None:
        raise InputError(
            "the labels do not tell which is the positive class of the metric f1",
            where=where,
            key=key,
            got=_labels(examples),
            expected="two labels of which one is a denial (no, false, negative, not ...)",
            fix="name the class: metric: f1(LABEL); or set metric: em for accuracy",
        )


def check_labels(metric: Metric, examples: Sequence[Example], *, where: str, key: str) -> None:
    """Raise InputError for a split over whose labels the metric is undefined."""
    labels = _labels(examples)
    if metric in ("mcc", "pearson", "spearman") and len(labels) == 1:
        raise InputError(
            f"all examples of this split have one answer, so that {metric} is undefined",
            where=where,
            key=key,
            got=labels[0],
            fix="set a larger or another split, or metric: em",
        )
    label = _OF_CLASS.fullmatch(metric) if isinstance(metric, str) else None
    positive = agreement.positive_class(labels) if metric == "f1" else label and label[1]
    if positive is not None and agreement.normal(positive) not in labels:
        raise InputError(
            "no example of this split has the positive class, so that f1 would be 0",
            where=where,
            key=key,
            got=positive or labels[0],
            expected=f"a label of this split: {', '.join(labels)}",
        )


def _labels(examples: Sequence[Example]) -> list[str]:
    """The first answers of examples without differences of case and white space, sorted."""
    return sorted({agreement.normal(example.answers[0]) for example in examples})
