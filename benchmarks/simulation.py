"""The simulated cluster against a sweep that was run: predicted and measured, from its own storage.

    python benchmarks/simulation.py STUDY.yaml STORAGE WORKERS [--start-s 0.05]

STUDY is the study that was swept into STORAGE (a folder) by WORKERS workers at once, from an empty
storage and without a break. Measured: from the first stage's begin to the last one's end.
Predicted: the simulation, which is told the mean seconds of each kind of stage and nothing else.
"""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from l2kd_ray.core.store import Store
from l2kd_ray.forecast.clock import Assumptions
from l2kd_ray.forecast.machines import Cluster
from l2kd_ray.forecast.simulate import POLICIES, simulate
from l2kd_ray.forecast.trie import measured, trie_of, widths
from l2kd_ray.study import load


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("study", type=Path)
    arguments.add_argument("storage")
    arguments.add_argument("workers", type=int)
    arguments.add_argument("--start-s", type=float, default=0.05)
    given = arguments.parse_args()
    study, store = load(given.study), Store(given.storage)
    trie = trie_of(study, Store("memory://nothing"))
    listing = store.listing().finished
    manifests = [store.manifest(kind, key) for key, kind in listing.items()]
    found = [manifest for manifest in manifests if manifest is not None]
    begins = [datetime.fromisoformat(manifest.started).timestamp() for manifest in found]
    ends = [begin + manifest.seconds for begin, manifest in zip(begins, found, strict=True)]
    span = max(ends) - min(begins)
    by_kind, _ = measured(store, set(trie.kinds))
    how = Assumptions(boot_s=0, idle_s=1e9, preempted_per_hour=0, start_s=given.start_s)
    print(f"{len(found)} stages, {len(trie)} simulated; measured {span:.1f} s")
    for policy in POLICIES:
        simulated = simulate(
            trie,
            Cluster.parse(f"head + {given.workers} x local"),
            trie.values(trie.seconds(by_kind)),
            widths=widths(trie, study.config.scale),
            policy=policy,
            assumed=how,
        )
        error = simulated.makespan_s / span - 1
        print(f"{policy:<10} predicted {simulated.makespan_s:6.1f} s ({error:+.0%})")


if __name__ == "__main__":
    main()
