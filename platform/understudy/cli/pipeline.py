"""`understudy compare` with the stages of a pipeline: an expert, its demonstrations, those who learn from them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.cli.expert import show_demonstrations
from understudy.cli.output import console
from understudy.cli.stages import under_way
from understudy.cli.train import read_run, run_training

if TYPE_CHECKING:
    from understudy.matrix.cells import Cell
    from understudy.matrix.pipeline import PipelineDir, Words
    from understudy.runs.directory import RunDir
    from understudy.runs.stop import Notice
    from understudy.spec.run import RunSpec
    from understudy.tracking import Tracked

TAKES = "a pipeline takes one value a key"


def start_pipeline(words: Sequence[str], config_dir: str | None = None, *, cfg: bool = False) -> None:
    """Check every stage, then do all that is not done yet; with `cfg` print the commands of the stages and stop."""
    from understudy.matrix.pipeline import PipelineDir, read_words

    found = read_words(words)
    cells, demonstrations, specs = plan(found, config_dir)
    if cfg:
        for cell in cells:
            print(shlex.join(["understudy", "train", *cell.words]) if cell.words else f"# expert: {cell.folder}")
        return
    check(specs)
    drive_pipeline(PipelineDir.write(folder_of(found), found.options, cells, demonstrations))


def folder_of(words: Words) -> Path:
    """Return the pipeline's folder."""
    from understudy.files import user_path
    from understudy.spec.run import plain_name

    return user_path(words.options.save_dir).absolute() / plain_name(words.options.env_name)


def plan(words: Words, config_dir: str | None = None) -> tuple[list[Cell], str, list[RunSpec]]:
    """Return the cells, the folder of the demonstrations below the pipeline's, and the runs as they will be."""
    from understudy.matrix.cells import Cell
    from understudy.matrix.pipeline import EXPERT, LEARNERS, key_of

    options, root = words.options, folder_of(words).parent
    cells: list[Cell] = []
    specs: list[RunSpec] = []

    def add(method: str, expert_data: str = "") -> None:
        own = [f"save_dir={root}", *words.of(method, expert_data)]
        spec = read_run([word for word in own if not word.startswith("epochs=")], config_dir, TAKES)
        key = key_of(spec.fingerprint(), *(word for word in own if word.startswith("epochs=")))
        cells.append(Cell(method, options.env_name, f"{method}-{key}", tuple(own)))
        specs.append(spec)

    if options.expert_run is None:
        add(EXPERT)
    else:
        run = finished_expert(options.expert_run, options.env_name)
        cells.append(Cell(EXPERT, options.env_name, str(run.path.absolute())))
        specs.append(run.spec())
    demonstrations = f"demonstrations/{key_of(specs[0].fingerprint(), cells[0].folder, vars(options.wanted))}"
    for method in LEARNERS:
        add(method, str(folder_of(words) / demonstrations))
    return cells, demonstrations, specs


def finished_expert(name: str, env_name: str) -> RunDir:
    """Return the run that the expert is taken from; UserError where it is not one of this environment that is done."""
    from understudy.errors import UserError
    from understudy.registry import algorithms
    from understudy.runs.demonstrating import policies_of
    from understudy.runs.directory import RunDir
    from understudy.runs.find import find

    run = RunDir.existing(find(name))
    spec, _ = policies_of(run)
    if spec.env_name != env_name:
        raise UserError(f"expert_run={name}: it acts in {spec.env_name}, not in {env_name}")
    if not algorithms.get(spec.algo).acts:
        raise UserError(f"expert_run={name}: {spec.algo} gives no actions")
    return run


def check(specs: Sequence[RunSpec]) -> None:
    """Raise what is wrong with any stage, as far as it can be told before the demonstrations are there."""
    from understudy.devices import resolve_device
    from understudy.registry import algorithms, loops
    from understudy.runs.loop import check_new, make_loop
    from understudy.runs.on_ray import check_launcher

    first, *learners = specs
    for spec in learners:
        check_launcher(spec)
        resolve_device(spec.placement.device)
        loop = loops.get(algorithms.get(spec.algo).loop)
        if not loop.has_fixed_data:
            loop.check(spec)
    check_new(first)
    make_loop(first)  # tries the environment


def drive_pipeline(pipeline: PipelineDir) -> None:
    """Do what is left of a pipeline and print its comparison; Stopped, naming it, by SIGTERM and Ctrl-C."""
    from understudy.cli.results import show_results

    console.print(f"pipeline: {pipeline.path}", soft_wrap=True)
    expert, *learners = pipeline.cells()
    base = _spec_of(pipeline, learners[0])
    with under_way(pipeline, base, "pipeline") as (parent, notice):
        total = len(learners) + 3
        _say(1, total, f"the expert, {expert.method} on {expert.task}")
        _train(pipeline, expert, parent)
        notice.check()
        _say(2, total, "its demonstrations")
        facts = _demonstrate(pipeline, expert, notice)
        for place, cell in enumerate(learners, 3):
            notice.check()
            _say(place, total, f"{cell.method} on {cell.task}")
            _train(pipeline, cell, parent)
        notice.check()
        _say(total, total, "the comparison")
        show_results(pipeline, base, facts, parent, notice)


def _say(place: int, total: int, what: str) -> None:
    console.print(f"\n{place}/{total}: {what}", soft_wrap=True)


def _spec_of(pipeline: PipelineDir, cell: Cell) -> RunSpec:
    """Return a cell's run as far as it can be told without its data."""
    from understudy.runs.directory import RunDir

    run = RunDir(pipeline.folder(cell))
    if run.flags.is_file():
        return run.spec()
    return read_run([word for word in cell.words if not word.startswith("epochs=")])


def _train(pipeline: PipelineDir, cell: Cell, parent: Tracked) -> None:
    """Train a cell, unless it is trained."""
    from understudy.runs.directory import RunDir
    from understudy.runs.ended import check_ended

    run = RunDir(pipeline.folder(cell))
    if run.state().get("status") == "finished":
        check_ended(run)
        console.print(f"done already: {run.path}", soft_wrap=True)
        return
    if not run.flags.is_file():
        run = RunDir.at(run.path, read_run(list(cell.words)))
    if parent.run_id:
        run.update_state(parent_run_id=parent.run_id)
    run_training(run.spec(), run, parent_run_id=parent.run_id)


def _demonstrate(pipeline: PipelineDir, expert: Cell, notice: Notice) -> Mapping[str, Any]:
    """Collect the expert's demonstrations, unless they are there; return what is known of them."""
    from understudy.runs.demonstrating import choose_expert, demonstrate, facts_of
    from understudy.runs.directory import RunDir

    folder, facts = pipeline.demonstrations, facts_of(pipeline.demonstrations)
    if facts:
        console.print("done already")
    else:
        episodes = pipeline.options.final_episodes
        chosen = choose_expert(RunDir(pipeline.folder(expert)), episodes, poll=notice.poll)
        console.print(f"expert: {chosen.name}, chosen on episodes of its own", soft_wrap=True)
        facts = demonstrate(chosen, pipeline.options.wanted, folder, poll=notice.poll)
    show_demonstrations(folder, facts)
    return facts
