"""`understudy submit` and `jobs`."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from understudy.cli.output import OVERRIDES, console, show_table
from understudy.cli.resume import ADD_STEPS, ADD_TRIALS, CHANGE_SPACE, RETRY_FAILED
from understudy.cli.runs import clock_time
from understudy.cluster.commands.opening import open_profile, print_lines
from understudy.errors import UserError
from understudy.registry import commands

if TYPE_CHECKING:
    from understudy.cluster.job import Job
    from understudy.cluster.jobs import Cluster
    from understudy.cluster.profile import Profile

jobs = typer.Typer(help="Submitted jobs: list, logs, stop, resume.", no_args_is_help=True)

ON = typer.Option("local", "--profile", "-p", help="where: a profile's name, a YAML file, or http://HOST:8265")
JOB = typer.Argument(..., help="the job's id, as `understudy submit` printed it")
PLUGINS = typer.Option([], "--plugin", help="folder, .py file or module with plug-ins of yours (repeatable)")
SUBMIT = """\
Run a sweep or a training on a cluster. The driver runs there too: this machine may be closed at once.

  understudy submit sweep space=flow_bc env_name=lift-mh-low_dim seeds=[0,1,2] num_trials=30 --profile slurm
  understudy submit train env_name=hopper-medium-v2 launcher=ray gpus=1 --profile mycluster.yaml --follow
  understudy submit sweep algo=my_bc ... --plugin ./my_plugins --name monday

Keys are those of `understudy sweep` and `understudy train`; they are checked before anything is sent. save_dir and
data_dir are <storage.path>/runs and <storage.path>/datasets of the profile unless given.

  --profile, -p   a profile's name (`understudy cluster list`), a YAML file, or http://HOST:8265; default local
  --plugin        folder, .py file or module with plug-ins of yours; sent along (repeatable), as is the module of
                  an environment of your own (env_name=my_module:MyEnv, or data imported with such an --env)
  --name          the job's id and its folder's name; default says what it is and when
  --follow        show the job's output until it ends; exit 1 when it fails (default: --no-wait)
  --config-dir    folder with your own Hydra groups"""


@commands.register("jobs")
def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(context_settings=OVERRIDES, short_help="Run a sweep or a training on a cluster.")(submit)
    app.add_typer(jobs, name="jobs")


def submit(
    context: typer.Context,
    what: str = typer.Argument("", help="sweep or train"),
    profile: str = ON,
    plugin: list[str] = PLUGINS,
    name: str = typer.Option("", "--name", help="the job's id; default says what it is and when"),
    follow: bool = typer.Option(False, "--follow/--no-wait", help="show the job's output until it ends"),
    config_dir: str | None = typer.Option(None, "--config-dir", help="folder with your own Hydra groups"),
    help_: bool = typer.Option(False, "--help", help="show this"),
) -> None:
    """Run a sweep or a training on a cluster."""
    if help_:
        return console.print(SUBMIT, markup=False, soft_wrap=True)
    from understudy.cli.sweep import read_sweep
    from understudy.cli.train import read_run
    from understudy.cluster import code, job
    from understudy.errors import did_you_mean
    from understudy.sweeping.sweep_spec import SweepSpec

    readers = {"sweep": read_sweep, "train": read_run}
    if what not in readers:
        raise UserError(f"cannot submit {what!r}{did_you_mean(what, readers)}; see `understudy submit --help`")
    plugins = [code.find_plugin(item) for item in plugin]
    code.use_plugins(plugins)
    loaded, cluster = open_profile(profile)
    spec = readers[what]([*job.default_words(loaded, what), *context.args], config_dir)
    base = spec.base if isinstance(spec, SweepSpec) else spec
    names = [item.name for item in plugins]
    modules = code.own_environment(base, names)
    with tempfile.TemporaryDirectory(prefix="understudy-code-") as folder:
        content = code.stage(Path(folder), [*plugins, *modules])
        made = job.make_job(spec, loaded, name, content, names, [item.name for item in modules])
        _send(loaded, cluster, made, Path(folder), profile)
    if follow:
        _follow(cluster, made.id)
    return None


def _send(profile: Profile, cluster: Cluster, made: Job, folder: Path, given: str) -> None:
    """Submit a job, note it, and print where to look."""
    from understudy.cluster.job import remember
    from understudy.secrecy import without_secrets

    links = cluster.submit(made, folder)
    remember(profile, made)
    uri = made.flat["tracking_uri"]
    shown = {
        "job": made.id,
        "folder": made.folder,
        **links,
        **({"MLflow": f"{without_secrets(uri)} (experiment {made.flat['project']})"} if uri else {}),
        "code": made.code,
        "logs": f"understudy jobs logs {made.id} --profile {given} -f",
    }
    print_lines([f"{key:10} {value}" for key, value in shown.items()])


def _follow(cluster: Cluster, job_id: str) -> None:
    """Show a job's output until it ends; exit 1 when it did not finish."""
    try:
        for text in cluster.logs(job_id, True):
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        print(f"\nunderstudy: {job_id} goes on without us", file=sys.stderr)
        raise typer.Exit(130) from None
    state = cluster.find(job_id)
    if state.status != "FINISHED":
        print(f"understudy: {job_id} ended {state.status.lower()}: {state.message}", file=sys.stderr)
        raise typer.Exit(1)


@jobs.command("list")
def list_jobs(profile: str = ON) -> None:
    """List a cluster's jobs, oldest first, and those submitted from here that it does not know."""
    from understudy.cluster.job import remembered
    from understudy.cluster.jobs import lost_job

    loaded, cluster = open_profile(profile)
    noted = remembered(loaded)
    try:
        held = cluster.jobs()
    except UserError as error:
        if not noted:
            raise
        console.print(f"{error}; this is what was submitted from here:", soft_wrap=True)
        held = []
    known = {item.id for item in held}
    rows = []
    for item in [*(lost_job(job) for name, job in noted.items() if name not in known), *held]:
        ended = item.ended or time.time()
        minutes = f"{(ended - item.started) / 60:.1f} min" if item.started else "-"
        started = clock_time(item.started) if item.started else "-"
        what = f"{item.job.kind} {item.job.flat.get('env_name')}" if item.job else "-"
        rows.append((item.id, item.status.lower(), what, started, minutes, item.job.folder if item.job else ""))
    if not rows:
        return console.print(f"no jobs on {loaded.name}", soft_wrap=True)
    return show_table(("job", "status", "what", "started", "for", "folder"), rows)


@jobs.command()
def logs(
    job_id: str = JOB,
    profile: str = ON,
    follow: bool = typer.Option(False, "--follow", "-f", help="go on until the job ends; exit 1 when it fails"),
) -> None:
    """Show a job's output."""
    cluster = open_profile(profile)[1]
    if follow:
        return _follow(cluster, job_id)
    for text in cluster.logs(job_id, False):
        print(text, end="")
    return None


@jobs.command()
def stop(job_id: str = JOB, profile: str = ON) -> None:
    """Stop a job; it can be resumed."""
    print_lines([open_profile(profile)[1].stop(job_id)])


@jobs.command()
def resume(
    job_id: str = JOB,
    profile: str = ON,
    plugin: list[str] = PLUGINS,
    follow: bool = typer.Option(False, "--follow/--no-wait", help="show the job's output until it ends"),
    add_steps: int = ADD_STEPS,
    add_trials: int = ADD_TRIALS,
    retry_failed: bool = RETRY_FAILED,
    change_space: list[str] = CHANGE_SPACE,
) -> None:
    """Go on with a job where it was left, on the same cluster or on a new head, with the code of here and now."""
    from understudy.cluster import code, job, resuming

    loaded, cluster = open_profile(profile)
    old = resuming.find_job(loaded, cluster, job_id)
    more = job.More(
        add_steps=add_steps, add_trials=add_trials, retry_failed=retry_failed, change_space=tuple(change_space)
    )
    more.check(old.kind)
    plugins = [code.find_plugin(item) for item in plugin or old.plugins]
    code.use_plugins(plugins)
    with tempfile.TemporaryDirectory(prefix="understudy-code-") as folder:
        content = code.stage(Path(folder), [*plugins, *(code.find_plugin(item) for item in old.modules)])
        made = resuming.next_job(loaded, cluster, old, more, content, [item.name for item in plugins])
        _send(loaded, cluster, made, Path(folder), profile)
    if follow:
        _follow(cluster, made.id)


@jobs.command("run", hidden=True)
def run(file: Path = typer.Argument(..., help="the job's file")) -> None:
    """Be a job's driver: start its sweep or run, or go on with it. Runs in the cluster."""
    from understudy.cli.resume import go_on
    from understudy.cli.sweep import start_sweep
    from understudy.cli.train import start_training
    from understudy.cluster.code import check_code
    from understudy.cluster.job import More, read_job
    from understudy.cluster.resuming import still_to_add
    from understudy.cluster.storage import fetch_dataset
    from understudy.cluster.tools import check_secrets
    from understudy.runs.find import MARKERS
    from understudy.spec.keys import build_run
    from understudy.sweeping.sweep_spec import SweepSpec

    made = read_job(file)
    folder = Path(made.folder)
    check_code(made.code, [*made.plugins, *made.modules])
    check_secrets(made.secrets)
    if made.storage_uri:
        fetch_dataset(made.storage_uri, Path(made.flat["data_dir"]), made.flat["env_name"])
    if any((folder / marker).is_file() for marker in MARKERS):
        go_on(str(folder), **still_to_add(made).model_dump())
    elif made.more != More():
        raise UserError(f"{folder} was not begun: there is nothing to add to; resume {made.id} as it is first")
    elif made.kind == "sweep":
        start_sweep(SweepSpec.model_validate(made.spec), folder)
    else:
        start_training(build_run(made.spec), folder)
