"""A W&B workspace for the runs of a study: losses by term, the stream, gaps by method.

    pip install wandb-workspaces
    python examples/wandb_workspace.py ENTITY PROJECT STUDY

It makes a saved view of the project, in which runs are filtered by the study and grouped by method;
`docs/mirrors.md` says what the runs hold.
"""

import sys

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

TERMS = ("qa", "lm", "kd", "replay")
STEP = "global_step"


def workspace(entity: str, project: str, study: str) -> ws.Workspace:
    """The view; nothing is sent before it is saved."""
    training = [
        wr.LinePlot(title="Loss", x=STEP, y=["train/loss"]),
        wr.LinePlot(title="Terms of the loss", x=STEP, y=[f"train/{term}" for term in TERMS]),
        wr.LinePlot(title="Norm of the gradient", x=STEP, y=["train/grad_norm"], log_y=True),
        wr.LinePlot(title="Tokens a second", x=STEP, y=["train/tokens_per_second"]),
    ]
    stream = [wr.LinePlot(title="Test scores along the stream", x=STEP, metric_regex="eval/.*")]
    gaps = [
        wr.BarPlot(title=title, metrics=[wr.SummaryMetric(name)], groupby="config.method")
        for title, name in (
            ("Points below multi-task", "gap/abs"),
            ("Most forgotten", "cl/forgetting_max"),
            ("Seconds of a trial", "seconds"),
        )
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"l2kd: {study}",
        sections=[
            ws.Section(name="Gap to multi-task", panels=gaps, is_open=True),
            ws.Section(name="Along the stream", panels=stream, is_open=True),
            ws.Section(name="Training", panels=training, is_open=True),
        ],
        runset_settings=ws.RunsetSettings(
            filters=f"Metric('Group') == '{study}' and Metric('JobType') != 'report'",
            groupby=[ws.Config("method")],
        ),
    )


if __name__ == "__main__":
    print(workspace(*sys.argv[1:4]).save().url)
