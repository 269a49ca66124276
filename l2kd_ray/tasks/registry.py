"""The named tasks: descriptions, hub datasets, and the files tried below `data_dir`.

The tasks and their metrics are those of Chuang et al., EMNLP 2020 (arXiv 2010.02123), and Sun et
al., ICLR 2020 (arXiv 1909.03329). A task without a hub id is read from files only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from l2kd_ray.tasks.entries import SPLITS, Entry, Files, jsonl, squad
from l2kd_ray.tasks.glue import GLUE
from l2kd_ray.tasks.grammars import GRAMMARS, Grammar
from l2kd_ray.tasks.made import MADE
from l2kd_ray.tasks.metrics import DATA_TO_TEXT
from l2kd_ray.tasks.readers import nlg, wikisql, woz
from l2kd_ray.tasks.sentences import SENTENCES, Sentences
from l2kd_ray.tasks.spec import TaskKind


def _rnnlg(domain: str, folder: str) -> Entry:
    files: Files = {
        "train": f"rnnlg/{folder}/train.json",
        "dev": f"rnnlg/{folder}/valid.json",
        "test": f"rnnlg/{folder}/test.json",
    }
    return Entry(
        "text-to-text",
        "rouge",
        f"dialogue acts in words: {folder} (RNNLG)",
        (squad(f"rnnlg.{domain}"), ("rnnlg", files)),
        question=nlg.NLG_QUESTION,
        extras=DATA_TO_TEXT,
        leaks=True,
    )


def _reviews(domain: str) -> Entry:
    return Entry(
        "classify",
        "em",
        f"sentiment of product reviews: {domain} (Amazon, four domains)",
        (jsonl(f"amazon_reviews/{domain}"),),
        labels=("negative", "positive"),
        question="Is this review negative or positive?",
    )


def _same(path: str) -> Files:
    return {"train": path, "dev": path, "test": path}


def _classify(
    description: str, name: str, folder: str, labels: tuple[str, ...], **hub: str
) -> Entry:
    text = hub.pop("text", None)
    return Entry(
        "classify",
        "em",
        description,
        (squad(name), jsonl(folder)),
        hub=hub.get("hub"),
        columns={"text": text} if text else {},
        labels=labels,
        question=f"Is this sentence {', '.join(labels[:-1])}, or {labels[-1]}?",
    )


DOMAINS = ("books", "dvd", "electronics", "kitchen")
_STARS = ("very negative", "negative", "neutral", "positive", "very positive")
REGISTRY: Mapping[str, Entry] = {
    "e2enlg": Entry(
        "text-to-text",
        "rouge",
        "restaurant descriptions from slots (E2E challenge)",
        (squad("e2enlg"), ("e2e", _same("e2e/e2e-dataset.zip"))),
        question=nlg.NLG_QUESTION,
        extras=DATA_TO_TEXT,
    ),
    "rnnlg.rest": _rnnlg("rest", "restaurant"),
    "rnnlg.hotel": _rnnlg("hotel", "hotel"),
    "rnnlg.tv": _rnnlg("tv", "tv"),
    "rnnlg.laptop": _rnnlg("laptop", "laptop"),
    "woz.en": Entry(
        "text-to-text",
        "dsem",
        "dialogue state tracking (WOZ 2.0, English)",
        (
            squad("woz.en"),
            (
                "woz",
                {
                    "train": "woz/woz_train_en.json",
                    "dev": "woz/woz_validate_en.json",
                    "test": "woz/woz_test_en.json",
                },
            ),
        ),
        question=woz.WOZ_QUESTION,
    ),
    "wikisql": Entry(
        "text-to-text",
        "lfem",
        "questions to SQL (WikiSQL; wikisql.json.bz2 has a partial schema)",
        (squad("wikisql"), ("wikisql", _same("wikisql/wikisql.json.bz2"))),
        question=wikisql.WIKISQL_QUESTION,
    ),
    "sst": Entry(
        "classify",
        "em",
        "sentiment of film reviews (SST, two classes)",
        (squad("sst"), jsonl("sst2")),
        hub="SetFit/sst2",
        labels=("negative", "positive"),
        question="Is this review negative or positive?",
    ),
    "ag": _classify(
        "topic of news (AG News)",
        "ag",
        "agnews",
        ("World", "Sports", "Business", "Science or Technology"),
        hub="fancyzhx/ag_news",
    ),
    "amazon": _classify("stars of product reviews (Amazon full)", "amazon", "amazon_full", _STARS),
    "yelp": _classify(
        "stars of reviews (Yelp full)", "yelp", "yelp_full", _STARS, hub="Yelp/yelp_review_full"
    ),
    "dbpedia": _classify(
        "category of encyclopedia articles (DBpedia)",
        "dbpedia",
        "dbpedia",
        (
            "Company",
            "Educational Institution",
            "Artist",
            "Athlete",
            "Office Holder",
            "Mean of Transportation",
            "Building",
            "Natural Place",
            "Village",
            "Animal",
            "Plant",
            "Album",
            "Film",
            "Written Work",
        ),
        hub="fancyzhx/dbpedia_14",
        text="title + content",
    ),
    "banking77": Entry(
        "classify",
        "em",
        "which of 77 intents a bank's customer has (Banking77)",
        (("csv", {"train": "banking77/train.csv", "test": "banking77/test.csv"}),),
        hub="legacy-datasets/banking77",
        file_columns={"label": "category"},
        question="What is the intent?",
    ),
    **{f"amazon.{domain}": _reviews(domain) for domain in DOMAINS},
    "yahoo": Entry(
        "classify",
        "em",
        "topic of questions and answers (Yahoo)",
        (squad("yahoo"), jsonl("yahoo")),
        hub="community-datasets/yahoo_answers_topics",
        columns={
            "text": "question_title + question_content + best_answer",
            "label": "topic",
        },
        question="What is the topic of this question?",
    ),
    "cnn_dailymail": Entry(
        "text-to-text",
        "rouge",
        "summaries of news (CNN / Daily Mail)",
        (squad("cnn_dailymail"), jsonl("cnn_dailymail")),
        hub="abisee/cnn_dailymail",
        config="3.0.0",
        columns={"context": "article", "answer": "highlights"},
        question="What is the summary?",
    ),
    "wnut17": Entry(
        "tag",
        "span_f1",
        "novel and emerging entities (WNUT 2017)",
        (("conll", {s: f"wnut17/{s}.conll" for s in SPLITS}),),
    ),
    "ud.ewt": Entry(
        "parse",
        "las",
        "dependency parsing (Universal Dependencies, English EWT)",
        (("conllu", {s: f"ud_english_ewt/en_ewt-ud-{s}.conllu" for s in SPLITS}),),
        extras=("uas",),
    ),
    "srl": Entry(
        "text-to-text",
        "nf1",
        "semantic roles as questions (QA-SRL)",
        (squad("srl"), jsonl("srl")),
    ),
    **GLUE,
}


@dataclass(frozen=True)
class Registered:
    """A named task, as `l2kd tasks` lists it."""

    name: str
    kind: TaskKind
    metric: str
    extras: tuple[str, ...]
    hub: str | None
    files: tuple[str, ...]
    """Paths tried below `data_dir`, or the file alone in `data_dir` itself."""
    description: str


def registered() -> dict[str, Registered]:
    """The named tasks by name; generated ones come last."""
    sources: dict[str, Grammar | Sentences] = {**GRAMMARS, **SENTENCES}
    drawn = {
        name: Entry(source.kind, source.metric, source.description, extras=source.extras)
        for name, source in sources.items()
    }
    made = {
        name: replace(entry, description=f"{entry.description} (generated)")
        for name, entry in (drawn | dict(MADE)).items()
    }
    return {
        name: Registered(
            name,
            entry.kind,
            entry.metric,
            entry.extras,
            entry.hub,
            tuple(dict.fromkeys(path for _, files in entry.files for path in files.values())),
            entry.description,
        )
        for name, entry in (dict(REGISTRY) | made).items()
    }


def family(name: str) -> tuple[str, ...]:
    """The tasks that share a vocabulary with a generated task: all grammars', or none.

    A generated labelled task (`made`) has a vocabulary of its own.
    """
    return tuple(GRAMMARS) if name in GRAMMARS else ()
