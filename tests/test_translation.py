"""Teachers of another tokenizer: where two tokenisations meet, and what is compared there."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import accumulate, pairwise
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.language import FORMAT, NEW, context, curriculum, make_model, no_dropout
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from l2kd_ray.core.loop import accumulate as summed
from l2kd_ray.distill import linear_loss
from l2kd_ray.distill.divergences import uld
from l2kd_ray.distill.groups import Groups
from l2kd_ray.distill.linear_loss import Knowledge, OutputLayer
from l2kd_ray.distill.objectives import Positions, SoftTargets
from l2kd_ray.distill.sharpness import sharpness
from l2kd_ray.families.language.model.causal_lm import build
from l2kd_ray.families.language.model.corpus import Corpus
from l2kd_ray.families.language.model.sequences import SequenceFormat
from l2kd_ray.families.language.model.translation import Translation, meetings, spelling
from l2kd_ray.families.language.model.vocabulary import train, with_tokens
from l2kd_ray.families.language.stages import annotations
from l2kd_ray.families.language.stages.curriculum import SampleSource, SequenceRow
from l2kd_ray.families.language.stages.learn import Learn
from l2kd_ray.families.language.stages.on_policy import Sampling
from l2kd_ray.families.language.stages.teachers import Live
from l2kd_ray.families.language.stages.writing import Writer
from l2kd_ray.tasks import Example

WIDTH, V, THEIRS = 5, 9, 12
T = 2.0


# Where two tokenisations meet


def cut(text: bytes, places: set[int]) -> list[bytes]:
    bounds = [0, *sorted(place for place in places if 0 < place < len(text)), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


places = st.sets(st.integers(1, 30))


@given(text=st.text(min_size=1, max_size=12), own=places, other=places, space=st.booleans())
def test_groups_begin_at_the_byte_offsets_that_both_have(
    text: str, own: set[int], other: set[int], space: bool
) -> None:
    """Whatever the characters' bytes, and with a space before one of the texts."""
    whole = text.encode()
    one, two = cut(whole, own), cut(whole, other)
    starts = [[0, *accumulate(map(len, tokens))][:-1] for tokens in (one, two)]
    wanted = [(starts[0].index(s), starts[1].index(s)) for s in starts[0] if s in starts[1]]
    assert meetings(one, two) == wanted
    if space:
        assert meetings([b" " + one[0], *one[1:]], two) == wanted
        assert meetings(one, [b" " + two[0], *two[1:]]) == wanted


def test_a_token_of_the_space_before_a_text_belongs_to_its_first_group() -> None:
    assert meetings([b" ", b"a", b"b"], [b"a", b"b"]) == [(0, 0), (2, 1)]


def test_where_the_bytes_differ_there_is_one_group() -> None:
    """A tokenizer that writes some characters in another way says so until they have passed."""
    own, other = [b"x", b"\xef\xac\x81", b"t", b"s"], [b"x", b"f", b"i", b"t", b"s"]
    assert meetings(own, other) == [(0, 0), (2, 3), (3, 4)]
    as_long = [b"x", b"f i", b"t", b"s"]
    assert meetings(own, as_long) == [(0, 0), (2, 2), (3, 3)]


def pieces() -> SequenceFormat:
    """A tokenizer of SentencePiece's kind, as Llama's: `▁` for spaces, bytes for what it lacks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    merges = [("t", "h"), ("th", "a"), ("▁", "f"), ("▁f", "o"), ("o", "d"), ("▁", "tha")]
    letters = [*"▁abcdefghijklmnopqrstuvwxyz.?;=()"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocabulary = {name: n for n, name in enumerate([*names, *(a + b for a, b in merges)])}
    model = models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.Metaspace(), decoders.ByteFallback()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>")
    with_tokens(fast, ("a", "b"))
    return SequenceFormat(fast, bos=1, task_prompt="token")


def other_bytes() -> SequenceFormat:
    tokenizer = train(["the 日本 moon serves the naïve moon"], 290)
    with_tokens(tokenizer, ("a", "b"))
    return SequenceFormat(tokenizer, bos=None, task_prompt="token")


PIECES, OTHER = pieces(), other_bytes()
FORMATS = {"pieces": PIECES, "other": OTHER, "same": FORMAT}
TRANSLATIONS = {(a, b): Translation(FORMATS[a], FORMATS[b], 500) for a in FORMATS for b in FORMATS}
words = st.lists(st.sampled_from(["thai", "food", "naïve", "日本", "a.b", "“q”", "…"]), min_size=1)


def bytes_of(text: SequenceFormat, tokens: list[int]) -> bytes:
    known = spelling(text.tokenizer)
    special = {text.eos, *text.added, *text.bos}
    return b"".join(known[token] for token in tokens if token not in special)


@settings(max_examples=15, deadline=None)
@given(
    own=st.sampled_from(sorted(FORMATS)),
    other=st.sampled_from(sorted(FORMATS)),
    texts=st.tuples(words, words, words),
)
def test_a_translated_sequence_is_that_of_the_teachers_own_corpus(
    own: str, other: str, texts: Any
) -> None:
    """So it reads what it was trained on; and each group has the same text in both."""
    source, target = FORMATS[own], FORMATS[other]
    example = Example("0", *(" ".join(part) for part in texts[:2]), (" ".join(texts[2]),))
    (sample,), (wanted,) = (Corpus.of([example], one, "a", 500) for one in (source, target))
    for sequence, native in (
        (source.qa(sample), target.qa(wanted)),
        (source.lm(sample), target.lm(wanted)),
    ):
        shown, found = TRANSLATIONS[own, other].of(sequence)
        assert shown == native
        ends = (len(sequence.tokens), len(shown.tokens))
        starts = [(sequence.supervised + a, shown.supervised + b) for a, b in found]
        assert starts[0] == (sequence.supervised, shown.supervised)
        for (a, b), (c, d) in pairwise([*starts, ends]):
            assert a < c
            assert b < d
            text = bytes_of(source, sequence.tokens[a:c])
            assert text.strip() == bytes_of(target, shown.tokens[b:d]).strip()
        if own == other:
            count = len(sequence.tokens) - sequence.supervised
            assert found == tuple((n, n) for n in range(count))


def test_an_answer_without_an_end_or_of_half_a_character_has_its_groups() -> None:
    (tokens,) = FORMAT.encode(["日本"])
    sample = replace(NEW[0], answer=tokens[:-1])  # as a student may write it
    whole = FORMAT.qa(sample)
    shown, found = Translation(FORMAT, PIECES, 500).of(replace(whole, tokens=whole.tokens[:-1]))
    assert shown.tokens[-1] != PIECES.eos
    assert found[0] == (0, 0)
    _, ended = Translation(FORMAT, PIECES, 500).of(whole)
    assert len(ended) == len(found) + 1


def test_what_the_teacher_leaves_out_is_not_compared() -> None:
    """An answer of a space alone that has no end: no token of the teacher's is predicted."""
    space = replace(NEW[0], answer=[spaces()])
    whole = FORMAT.qa(space)
    cut_off = replace(whole, tokens=whole.tokens[:-1])
    shown, found = Translation(FORMAT, PIECES, 500).of(cut_off)
    assert found == ()
    assert shown.supervised == len(shown.tokens)
    assert Translation(FORMAT, PIECES, 500).of(whole)[1] == ((0, 0),)


def test_what_the_teacher_cannot_read_is_not_compared() -> None:
    whole = FORMAT.qa(SAMPLES[3])
    shown, found = TRANSLATIONS["same", "pieces"].of(whole)
    assert Translation(FORMAT, PIECES, len(shown.tokens)).of(whole) == (shown, found)
    cut_off, none = Translation(FORMAT, PIECES, len(shown.tokens) - 1).of(whole)
    assert (len(cut_off.tokens), cut_off.supervised, none) == (1, 1, ())


def spaces() -> int:
    return int(FORMAT.tokenizer.convert_tokens_to_ids("Ġ"))


@pytest.mark.skipif("L2KD_MODELS" not in os.environ, reason="L2KD_MODELS names no folder of models")
def test_the_tokenizers_of_gpt2_and_llama_meet() -> None:
    from transformers import AutoTokenizer, GPT2Tokenizer

    folder = Path(os.environ["L2KD_MODELS"])
    gpt2 = GPT2Tokenizer.from_pretrained(folder / "gpt2_tokenizer")
    llama = AutoTokenizer.from_pretrained(folder / "stories15M")
    for tokenizer in (gpt2, llama):
        with_tokens(tokenizer, ("a",))
    one = SequenceFormat(gpt2, bos=None, task_prompt="token")
    two = SequenceFormat(llama, bos=llama.bos_token_id, task_prompt="token")
    text = "The café “Blue Moon” serves 日本 food , 12.50 € ."
    for source, target in ((one, two), (two, one)):
        (sample,) = Corpus.of([Example("0", "name=Blue  Moon", "what ?", (text,))], source, "a", 99)
        (wanted,) = Corpus.of([Example("0", "name=Blue  Moon", "what ?", (text,))], target, "a", 99)
        shown, found = Translation(source, target, 500).of(source.qa(sample))
        assert shown == target.qa(wanted)
        assert len(found) == 17


# What is compared


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def naive(
    student: Tensor, teacher: Tensor, own: list[int], theirs: list[int], targets: list[list[int]]
) -> list[float]:
    """T^2 sum |sort(q) - sort(p)| of each group, number by number."""
    found = []
    for (a, b), (c, d) in zip(pairwise(own), pairwise(theirs), strict=True):
        sides = []
        for logits, target, first, end in (
            (student, targets[0], a, b),
            (teacher, targets[1], c, d),
        ):
            probabilities = (logits / T).softmax(-1).tolist()
            scale = 1.0
            for place in range(first + 1, end):
                scale *= probabilities[place][target[place]]
            sides.append(sorted((scale * one for one in probabilities[first]), reverse=True))
        longest = max(map(len, sides))
        padded = [side + [0.0] * (longest - len(side)) for side in sides]
        found.append(T**2 * sum(abs(q - p) for q, p in zip(*padded, strict=True)))
    return found


OWN, OF_TEACHER = [0, 1, 3, 4, 7], [0, 2, 3, 4, 6]
TARGETS = [[1, 2, 3, 4, 5, 6, 7], [0, 3, 9, 11, 5, 4]]


def test_the_distance_of_groups_is_that_of_its_definition() -> None:
    student, teacher = 2 * draw(7, V, seed=1), 2 * draw(6, THEIRS, seed=2)
    groups = Groups(OWN, OF_TEACHER, torch.tensor(TARGETS[1]))
    for one, two in ((student, teacher), (student.float(), teacher.float())):
        found = groups.distance(one, two, torch.tensor(TARGETS[0]), T)
        wanted = naive(student, teacher, OWN, OF_TEACHER, TARGETS)
        torch.testing.assert_close(found.double(), torch.tensor(wanted).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("chunk", [V, 3 * V, 2**24])
def test_the_fused_loss_of_groups_is_its_definition_and_passes_gradcheck(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole groups in each chunk, beside cross-entropy, weighed at each group's first position."""
    monkeypatch.setattr(linear_loss, "CHUNK_ELEMENTS", chunk)
    row = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    first = torch.zeros(7).index_fill(0, torch.tensor(OWN[:-1]), 1.0)
    target = torch.tensor(TARGETS[0])
    positions = Positions(target, row, target == 99, 0 * row, 0.7 * torch.ones(7), first)
    groups = Groups(OWN, OF_TEACHER, torch.tensor(TARGETS[1]))
    known = Knowledge(draw(6, WIDTH, seed=4), OutputLayer(draw(THEIRS, WIDTH, seed=5)), groups)
    objective, scale = SoftTargets(T, divergence="uld"), torch.tensor([1.5, 0.5]).double()

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return objective.loss(hidden, OutputLayer(weight), [known], positions, scale).total

    inputs = [draw(7, WIDTH, seed=1).requires_grad_(), draw(V, WIDTH, seed=2).requires_grad_()]
    assert torch.autograd.gradcheck(loss, inputs)
    student, teacher = inputs[0] @ inputs[1].T, known.hidden @ known.head.weight.T
    each = naive(student, teacher, OWN, OF_TEACHER, TARGETS)
    wanted = sum(0.7 * one * float(scale[row[a]]) for one, a in zip(each, OWN, strict=False))
    hard = -student.log_softmax(-1).gather(-1, target[:, None]).squeeze(-1)
    wanted += float((0.3 * scale[row] * hard.detach()).sum())
    assert float(loss(*inputs).detach()) == pytest.approx(wanted, rel=1e-6)
    counts = objective.count(positions, 2)
    assert counts.tolist() == pytest.approx([0.7 * 3 + 0.3 * 4, 0.7 + 0.3 * 3])


@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=9),
    size=st.integers(1, 9),
)
def test_chunks_have_whole_groups_and_all_of_them(sizes: Any, size: int) -> None:
    own, theirs = ([0, *accumulate(one[side] for one in sizes)] for side in (0, 1))
    groups = Groups(own, theirs, torch.arange(theirs[-1]))
    parts = [*groups.parts(size)]
    assert [n for part, _, _ in parts for n in range(part.start, part.stop)] == [*range(own[-1])]
    assert [n for _, _, part in parts for n in part.target.tolist()] == [*range(theirs[-1])]
    for part, there, inside in parts:
        assert (inside.own[0], inside.own[-1]) == (0, part.stop - part.start)
        assert (inside.theirs[0], inside.theirs[-1]) == (0, there.stop - there.start)
        assert part.stop - part.start <= size or len(inside.own) == 2
    bounds = [part.start + place for part, _, inside in parts for place in inside.own[:-1]]
    assert bounds == own[:-1]


def test_uld_sees_how_sure_a_model_is_and_not_of_what() -> None:
    logits = draw(4, V, seed=1)
    turned = logits.flip(-1)
    torch.testing.assert_close(uld(turned, logits, T), torch.zeros(4).double())
    wider = torch.cat([logits, torch.full((4, 3), -torch.inf).double()], -1)
    torch.testing.assert_close(uld(logits, wider, T), torch.zeros(4).double())
    certain = torch.full((1, V), -torch.inf).double()
    certain[0, 3] = 0.0
    flat = torch.zeros(1, V).double()
    assert float(uld(flat, certain, 1.0)) == pytest.approx(2 * (1 - 1 / V))


# The lessons


SIZES = {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_positions": 160}
SAMPLES = [
    *Corpus.of(
        [Example(str(n), "food=thai", "what is it ?", ("it is thai" * n,)) for n in range(1, 8)],
        FORMAT,
        "a",
        64,
    )
]


def translated(
    teacher: Any, other: SequenceFormat, tmp_path: Path, share: float = 1.0, own: bool = False
) -> Any:
    source = SampleSource(
        SAMPLES,
        teacher=Live(teacher),
        share=share,
        translation=Translation(FORMAT, other, 500),
        own=own,
    )
    chosen = curriculum(new=(source,), objective=SoftTargets(T, divergence="uld"))
    how = Sampling(share=1.0, max_new_tokens=5, temperature=1.0, top_k=None, renew_every=1)
    writer = Writer(how, make_model(), FORMAT, (1, "a"), context(tmp_path), 50)
    return replace(chosen, writer=writer) if own else chosen


def test_a_translation_into_the_same_tokens_changes_nothing(tmp_path: Path) -> None:
    """Beside replay, and with labels: the sorted distance at each position."""
    student, teacher = no_dropout(), no_dropout(seed=9)
    for share in (1.0, 0.4):
        there = translated(teacher, FORMAT, tmp_path, share)
        (source,) = there.new
        usual = replace(there, new=(replace(source, translation=None),))
        found = [
            float(summed(student, one.rows_of([0, 3, 5, 7]), one, context(tmp_path))[0])
            for one in (usual, there)
        ]
        assert found[0] == pytest.approx(found[1], rel=1e-5)
        assert found[0] > 0


def test_a_teacher_that_is_the_student_has_nothing_to_say(tmp_path: Path) -> None:
    student = no_dropout()
    one = translated(no_dropout(), FORMAT, tmp_path)
    assert float(summed(student, one.rows_of([0, 3]), one, context(tmp_path))[0]) < 1e-5


def test_a_batch_of_another_tokenizer_has_one_mean_over_its_groups(tmp_path: Path) -> None:
    """One row at a time, from the definition: full logits of both models, the groups' mean."""
    teacher = build("gpt2", SIZES, OTHER.tokenizer, seed=4).eval()
    student = no_dropout()
    chosen = translated(teacher, OTHER, tmp_path)
    rows: list[SequenceRow] = chosen.rows_of([0, 1, 3])
    found = float(summed(student, rows, chosen, context(tmp_path))[0])
    wanted = {"qa": list[float](), "lm": list[float]()}
    for row in rows:
        assert row.shown is not None
        assert row.meetings is not None
        sides = []
        for model, one in ((student, row.sequence), (teacher, row.shown)):
            logits = model.lm(input_ids=torch.tensor([one.tokens])).logits[0].double()
            sides.append((logits[one.supervised - 1 : -1], one.tokens[one.supervised :]))
        starts = [[*part] for part in zip(*row.meetings, strict=True)]
        own, theirs = ([*s, len(side[1])] for s, side in zip(starts, sides, strict=True))
        targets = [side[1] for side in sides]
        wanted[row.part] += naive(sides[0][0], sides[1][0], own, theirs, targets)
    means = {part: sum(each) / len(each) for part, each in wanted.items()}
    assert found == pytest.approx(means["qa"] + chosen.lm_weight * means["lm"], rel=1e-4)


def test_the_teacher_is_asked_about_what_the_student_writes(tmp_path: Path) -> None:
    from l2kd_ray.families.language.stages.curriculum import Batch

    one = translated(make_model(), PIECES, tmp_path, own=True)
    rows = one.rows(Batch(0, [0, 2, 4]))
    for row in rows:
        if row.part == "qa":
            written = one.writer.answer(0, row.index)
            assert row.sequence.tokens[row.sequence.supervised :] == written
        if row.meetings:
            assert bytes_of(PIECES, row.shown.tokens[2:])


def test_a_cached_teacher_has_nothing_to_say_where_all_rows_are_too_long(tmp_path: Path) -> None:
    """A part of a batch that has only such rows has the loss of a live teacher's: none."""
    lengths = [len(TRANSLATIONS["same", "pieces"].of(FORMAT.qa(s))[0].tokens) for s in SAMPLES]
    teacher, student = build("gpt2", SIZES, PIECES.tokenizer, seed=4), no_dropout()
    live = translated(teacher, PIECES, tmp_path)
    (source,) = live.new
    short = replace(source, translation=Translation(FORMAT, PIECES, sorted(lengths)[3]))
    live = replace(live, new=(short,), parts=("qa",))
    rows, here = live.rows_of(range(len(SAMPLES))), context(tmp_path)
    annotations.write(rows, Live(teacher), here)
    known = annotations.Cached(here.out, ("qa",))
    cached = replace(live, new=(replace(short, teacher=known),))
    for chosen in ([5, 6], [0, 1, 6]):
        found = [
            float(summed(student, one.rows_of(chosen), one, here)[0]) for one in (live, cached)
        ]
        assert found[0] == pytest.approx(found[1], rel=1e-3)
        assert (found[0] == 0) == (chosen == [5, 6])
    nothing = known.annotate([row for row in rows if not row.meetings], "cpu")
    assert nothing.hidden.shape == (0, 8)
    assert isnan(sharpness(nothing, T)["best"])


def test_a_teacher_for_which_all_rows_are_too_long_is_refused(tmp_path: Path) -> None:
    """Before it is asked: its cached outputs would have no file."""
    chosen = translated(no_dropout(), PIECES, tmp_path)
    (source,) = chosen.new
    none = replace(source, teacher=Unasked(), translation=Translation(FORMAT, PIECES, 1))
    chosen = replace(chosen, new=(none,))
    stage: Any = object.__new__(Learn)
    object.__setattr__(stage, "optimisation", chosen.optimisation)
    with pytest.raises(ValueError, match=r"smaller train\.max_length"):
        stage._teaching(no_dropout(), chosen, context(tmp_path))


class Unasked:
    is_sharded = False

    def to(self, device: str) -> None: ...


def test_a_shared_out_teacher_never_reads_the_students_tokens(tmp_path: Path) -> None:
    """It goes along where a part of a batch has replay alone, which it does not teach."""
    one = translated(no_dropout(), FORMAT, tmp_path)
    (source,) = one.new
    asked = Small(no_dropout())
    one = replace(one, new=(replace(source, teacher=asked),))
    count = len(source.samples)
    loss = float(summed(no_dropout(), one.rows_of([count, count + 1]), one, context(tmp_path))[0])
    assert asked.read
    assert loss > 0


class Small(Live):
    """A teacher that says it is shared out, and has few tokens."""

    is_sharded = True
    read = False

    def annotate(self, rows: Any, device: str) -> Knowledge:
        assert all(token < 5 for row in rows for token in row.read.tokens)
        self.read = True
        return super().annotate(rows, device)
