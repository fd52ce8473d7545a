"""What a population came to: its best member, and the settings that its weights were trained with, in turn."""

from __future__ import annotations

from dataclasses import dataclass

from understudy.runs.directory import RunDir, read_csv, read_last_row
from understudy.runs.results import objective_name, rank_key
from understudy.spec.run import RunSpec

POPULATION = "pbt.csv"
"""In each seed's folder: a row for step 0 and each exchange, with the seed that it goes on from and the settings."""


@dataclass(frozen=True)
class Lineage:
    """The weights of one member's last policy, through the members that they went through."""

    seed: int
    metrics: dict[str, float]
    """Its last evaluation."""
    stages: list[tuple[int, int, dict[str, float]]]
    """(first step, seed, settings), in order."""

    def line(self) -> str:
        """Return it in one line."""
        name = objective_name(self.metrics) or "return"
        names = list(self.stages[0][2])
        settings = [
            f"{key} " + ", ".join(f"{values[key]:.3g} from step {step + 1}" for step, _, values in self.stages)
            for key in names
        ]
        return f"best of the population: seed {self.seed}, {name} {self.metrics[name]:.3f}; {'; '.join(settings)}"


def lineage(run: RunDir, spec: RunSpec, seed: int | None = None) -> Lineage | None:
    """Return how a member's weights were trained, by default the best one's; None for a run without a population."""
    seeds = spec.all_seeds
    folders = {one: run.member(one, seeds) for one in seeds}
    if spec.population.pbt is None or not all((folder / POPULATION).is_file() for folder in folders.values()):
        return None
    last = {one: read_last_row(folder / "eval.csv") for one, folder in folders.items()}
    end = max(seeds, key=lambda one: (rank_key(last[one]), -seeds.index(one))) if seed is None else seed
    rows = {one: read_csv(folder / POPULATION) for one, folder in folders.items()}
    stages: list[tuple[int, int, dict[str, float]]] = []
    whose = end
    for place in reversed(range(len(rows[end]))):
        row = rows[whose][place]
        settings = {key: row[key] for key in spec.population.pbt}
        if stages and stages[-1][2] == settings:
            stages.pop()
        stages.append((int(row["step"]), whose, settings))
        whose = int(row["from"])
    return Lineage(end, last[end], stages[::-1])
