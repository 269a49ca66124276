"""The page docs/baselines.md, made from the methods' code: python benchmarks/baselines.py.

A test compares the page with the code, and looks for each test that the page names.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from l2kd_ray.families.language.methods import LANGUAGE_METHODS
from l2kd_ray.families.method import Method
from l2kd_ray.section import Section
from l2kd_ray.study.loading import resolve_study
from l2kd_ray.study.reading import parse_study
from l2kd_ray.testing.studies import tiny

PAGE = Path(__file__).parents[1] / "docs/baselines.md"
METHODS_TESTS, OWN_TESTS = "test_methods.py", "test_baselines.py"
FACTS: Mapping[str, tuple[str, str, str]] = {
    "finetune": (
        "CE",
        "the lower bound; what the others are where their weight is 0",
        f"{OWN_TESTS}::test_where_its_weight_is_0_a_method_is_another",
    ),
    "lamol": (
        "CE + 0.25 LM, on new and generated samples",
        "a naive reference with full logits",
        "test_loop.py::test_lamols_loss_is_the_one_of_its_definition",
    ),
    "lamol-real": (
        "CE + 0.25 LM, on new and real samples",
        "the number of samples",
        f"{METHODS_TESTS}::test_real_samples_are_shared_between_methods",
    ),
    "l2kd": (
        "LAMOL's; of new samples (1 - w) of it + w T^2 D(teacher, student)",
        "at w = 0 `lamol`, by key",
        f"{METHODS_TESTS}::test_l2kd_at_weight_zero_is_lamols_stage",
    ),
    "sdft": (
        "(1 - w) CE + w T^2 D(student shown the answer, student), on answers that it writes",
        "at w = 0 `finetune`, by key",
        "test_on_policy.py::test_sdft_without_a_teacher_is_plain_fine_tuning_on_the_same_text",
    ),
    "replay": (
        "CE on new samples and on a share of each former task's",
        "at ratio 0 `finetune`, by key",
        f"{OWN_TESTS}::test_where_its_weight_is_0_a_method_is_another",
    ),
    "ssr": (
        "CE on new and self-written samples",
        "k-means and the choice, on points with known clusters",
        f"{OWN_TESTS}::test_clusters_are_found_and_their_centres_kept",
    ),
    "lwf": (
        "CE + weight KL(former student, student) at T, on new samples",
        "the loss from full logits in float64; at weight 0 `finetune`, by key",
        f"{OWN_TESTS}::test_lwfs_loss_adds_the_teacher_to_the_labels",
    ),
    "der++": (
        "CE + beta CE(kept) + alpha MSE(logits, kept logits), kept samples drawn at each step",
        "kept logits are each task's student's; at alpha 0 `replay` that draws, by key",
        f"{OWN_TESTS}::test_each_former_task_has_its_own_students_logits",
    ),
    "ewc": (
        "CE + strength / 2 sum F (theta - former)^2",
        "at strength 0 `finetune`, by key",
        f"{METHODS_TESTS}::test_elastic_methods_at_strength_zero_are_finetuning",
    ),
    "mas": (
        "CE + strength sum sensitivity (theta - former)^2",
        "at strength 0 `finetune`, by key",
        f"{METHODS_TESTS}::test_elastic_methods_at_strength_zero_are_finetuning",
    ),
    "gem": (
        "g + sum v_k g_k, v >= margin, where a g g_k < 0: the nearest without one at margin 0",
        "the step is the projected gradient",
        "test_constraints.py::test_what_is_stepped_is_the_projected_gradient",
    ),
    "agem": (
        "g - (g r / r r) r where g r < 0; r: gradient on kept samples",
        "the definition, in float64",
        f"{OWN_TESTS}::test_a_gems_projection",
    ),
    "seq-lora": (
        "CE; W + alpha / rank B A, the same A and B for all tasks",
        "rank of the update after two tasks; with `merge`, `finetune`, by key",
        f"{OWN_TESTS}::test_a_second_task_trains_the_first_ones_factors_on_the_same_weights",
    ),
    "o-lora": (
        "CE + orthogonal sum abs(A_former A^T) + norm (norm(A) + norm(B))",
        "the penalty's gradient against autograd in float64; at 0 `seq-lora` with `merge`, by key",
        f"{OWN_TESTS}::test_o_loras_penalty_has_the_gradient_of_its_definition",
    ),
    "osf": (
        "W = U S V: the largest directions frozen; dU - U_f U_f^T dU, dV - dV V_f^T V_f",
        "gradients and the frozen part, against an SVD in float64",
        f"{OWN_TESTS}::test_osf_freezes_the_largest_directions",
    ),
    "merge": (
        "theta_0 + scale merged(theta_i - theta_0)",
        "average, MagMax and TIES, element by element; with one task `finetune`, by key",
        f"{OWN_TESTS}::test_ties_is_trim_elect_and_mean",
    ),
}
"""Of each method: its formula, what is verified, and the test that verifies it."""

_HEAD = """# The field's baselines

Made by `python benchmarks/baselines.py` from the code; a test compares the two. Each method is a
file, or a part of one, in `l2kd_ray/families/language/methods/`; [methods.md](methods.md) has the
settings that all share.

CE is the cross-entropy of the given answers. The stages are those of one order of three tasks; a
stage is computed once for all orders, seeds and settings that share it. Published settings are
those of the paper, where it has one setting: the learning rate and the number of epochs are the
study's, since they depend on the model. `tune_configs/baselines_published.yaml` is a study of them.

Lines are those of the method's step, with its options and stages, in its file. A method needs
nothing else: a test loads each from a copy of its file by the door for plug-ins, and gets the same
stages. What several share came with the first of them: further fields of `build.learn`, the
adapter, the constraint, and the scores of both.

"""


def page() -> str:
    methods = LANGUAGE_METHODS.values()
    rows = ["| method | source | loss or step | stages | lines |", "|---|---|---|---|---:|"]
    for one in methods:
        formula, _, _ = FACTS[one.name]
        rows.append(
            f"| `{one.name}` | {_about(one)} | {formula} | {_stages(one)} | {_lines(one)} |"
        )
    options = ["| key | default | published | meaning |", "|---|---|---|---|"]
    options += [row for one in methods for row in _options(one)]
    verified = ["| method | verified | by |", "|---|---|---|"]
    for one in methods:
        _, what, test = FACTS[one.name]
        verified.append(f"| `{one.name}` | {what} | `{test}` |")
    return (
        _HEAD
        + "\n".join(rows)
        + "\n\n## Options\n\n"
        + "\n".join(options)
        + "\n\n"
        + _SCORES
        + "\n## What is verified\n\n"
        + "\n".join(verified)
        + "\n\nNo published score is reproduced: the papers' models are T5-large and larger.\n"
    )


_SCORES = """A penalty can vanish because what it holds apart has become small. So the stages of
`o-lora` have the penalty, `penalty/overlap`, beside the size of the update, `adapter/norm`.
`osf/overlap` is the largest cosine of a trained direction with a frozen one: gradients are
projected, but AdamW's steps need not be orthogonal.
"""


def _about(one: Method) -> str:
    return _cell((inspect.getdoc(one.step) or "").split("\n\n")[0])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _stages(one: Method) -> str:
    """The stages of a trial of three tasks by kind, without those that only prepare."""
    tasks = ["gen.intent", "gen.rest", "gen.tv"]
    data = tiny(tasks=tasks, orders=[tasks], methods=[one.name])
    study = resolve_study(parse_study(data), "a study")
    trial = next(trial for trial in study.trials() if trial.method == one.name)
    roles = trial.stages().items()
    kinds = Counter(role for stage, role in roles if not stage.prepares and role != "evaluate")
    kinds.pop("examples", None)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _lines(one: Method) -> int:
    """The lines of its step and of all in its file that the step needs; imports are not counted."""
    module = ast.parse(Path(inspect.getfile(one.step)).read_text("utf-8"))
    named = {name: node for node in module.body for name in _defined(node)}
    needed, waiting = set[ast.stmt](), [one.step.__name__]
    while waiting:
        node = named.get(waiting.pop())
        if node is not None and node not in needed:
            needed.add(node)
            waiting += [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]
    return sum(_length(node) for node in needed)


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [name.id for one in targets for name in ast.walk(one) if isinstance(name, ast.Name)]


def _length(node: ast.stmt) -> int:
    above = node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
    return (node.end_lineno or 0) - min(each.lineno for each in (node, *above)) + 1


def _options(one: Method) -> Iterator[str]:
    if one.options is None:
        return
    meanings = _meanings(one.options)
    for name, field in one.options.model_fields.items():
        key = f"{one.section}.{name}"
        default = "none" if field.default is None else f"`{_plain(field.default)}`"
        published = f"`{_plain(one.published[key])}`" if key in one.published else ""
        yield f"| `{key}` | {default} | {published} | {meanings.get(name, '')} |"


def _plain(value: object) -> str:
    return yaml.safe_dump(value).removesuffix("\n...\n").strip()


def _meanings(section: type[Section]) -> dict[str, str]:
    """The docstrings of a section's fields, by name."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = _cell(str(ast.literal_eval(text.value)))
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
