"""The sbatch script of one job: what is asked of Slurm, what comes before Ray, how Ray starts, the driver.

Whole nodes start by `ray symmetric-run`; it ends with a machine-wide `ray stop`, so nodes that are shared with other
jobs, or groups of different nodes, start a head and workers by hand.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from understudy.cluster.job import Job
from understudy.cluster.profile import Nodes, Profile
from understudy.errors import UserError
from understudy.runs.ray_start import NO_IDLE_WORKERS
from understudy.runs.stop import STOP_WAIT

LOG = "job.log"
STOP_SECONDS = 60
"""Seconds for checkpoints, from SIGTERM to the time limit or the end of a preemption's grace."""


def script(profile: Profile, job: Job, folder: Path) -> str:
    """Return the script of a job whose files are in `folder`."""
    groups = [(name, nodes) for name, nodes in profile.workers.items() if nodes.count]
    if not groups:
        raise UserError(f"profile {profile.name} needs a group of workers with count=1 or more")
    symmetric = profile.slurm.start == "symmetric-run"
    if symmetric and len(groups) > 1:
        names = ", ".join(name for name, _ in groups)
        raise UserError(
            f"slurm.start=symmetric-run takes one group of equal nodes, not {names}: give slurm.start=head-worker"
        )
    driver = shlex.join(["bash", "-c", 'echo $$ >driver.pid; exec "$@"', "driver", *job.command(profile.python)])
    body = _symmetric(groups[0][1], driver) if symmetric else _head_worker(groups, driver)
    parts = (_header(profile, job, folder, groups), _setup(profile, job, folder), FORWARD, HEAD, body, WAIT)
    return "\n".join(line for part in parts for line in part) + "\n"


def _header(profile: Profile, job: Job, folder: Path, groups: list[tuple[str, Nodes]]) -> list[str]:
    """Return what is asked of Slurm; groups of different nodes are components of one job."""
    slurm = profile.slurm
    lines = ["#!/usr/bin/env bash", f"#SBATCH --job-name={job.id}", f"#SBATCH --output={folder / LOG}"]
    lines += ["#SBATCH --open-mode=append", "#SBATCH --requeue", f"#SBATCH --signal=B:TERM@{STOP_SECONDS}"]
    lines += ["#SBATCH --exclusive"] if slurm.start == "symmetric-run" else []
    lines += [f"#SBATCH {option}" for option in slurm.options]
    for index, (_, nodes) in enumerate(groups):
        lines += ["#SBATCH hetjob"] if index else []
        wanted = {"partition": slurm.partition, "account": slurm.account, "qos": slurm.qos, "time": slurm.time}
        wanted |= {"nodes": str(nodes.count), "ntasks-per-node": "1", "cpus-per-task": str(nodes.cpus or "")}
        wanted["mem"] = nodes.memory.removesuffix("i")  # 64Gi is 64G in Slurm's words
        wanted["gres"] = ":".join(filter(None, ["gpu", nodes.gpu_type, str(nodes.gpus)])) if nodes.gpus else ""
        lines += [f"#SBATCH --{key}={value}" for key, value in wanted.items() if value]
    return lines


def _setup(profile: Profile, job: Job, folder: Path) -> list[str]:
    """Return what comes before Ray: modules and environments, the code's path, the token."""
    own = list(profile.setup_commands)
    lines = ["", *(["# shellcheck disable=SC1090,SC1091"] if own else []), "set -eo pipefail", *own, "set -u"]
    lines.append(f"cd {shlex.quote(str(folder))}")
    lines += ['export PYTHONPATH="$PWD/code${PYTHONPATH:+:$PYTHONPATH}"', "export RAY_USAGE_STATS_ENABLED=0"]
    lines.append("export SLURM_EXPORT_ENV=ALL # else srun hands on only what sbatch was told to take")
    lines += [f"export {key}={value}" for key, value in NO_IDLE_WORKERS.items()]
    lines.append(f"export {STOP_WAIT}={STOP_SECONDS - 10}")
    lines += [f"export {key}={shlex.quote(value)}" for key, value in job.variables.items()]
    if profile.authentication == "none":
        return [*lines, "export RAY_AUTH_MODE=disabled"]
    # Other users' jobs reach these nodes' ports.
    lines.append('[ -s token ] || (umask 077; od -An -N32 -tx1 /dev/urandom | tr -d " \\n" >token)')
    return [*lines, 'export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/token"']


QUOTED = "# shellcheck disable=SC2016"
"""A comment before lines whose single quotes are meant: the driver's own shell expands what they hold."""
ANY_PORT = "--min-worker-port=0 --max-worker-port=0"
"""Ports of workers: the usual range may be taken by another job's Ray on the node."""


def _start(nodes: Nodes) -> str:
    words = ["--disable-usage-stats", *([f"--num-cpus={nodes.cpus}"] if nodes.cpus else [])]
    return " ".join([*words, f"--num-gpus={nodes.gpus}"])


FORWARD = [
    "",
    "# SIGTERM goes to the driver alone, which has its trials write checkpoints: to all, it would end those first.",
    "rm -f driver.pid",
    "forward() {",
    "    echo 'SIGTERM: the driver is being stopped'",
    '    if [ -s driver.pid ]; then kill -TERM "$(cat driver.pid)" || true; else exit 143; fi',
    "}",
    "trap forward TERM",
]
WAIT = [
    "driver=$!",
    "while true; do # a signal interrupts `wait`, not the driver",
    "    code=0",
    '    wait "$driver" || code=$?',
    '    kill -0 "$driver" 2>/dev/null || exit "$code"',
    "done",
]
HEAD = [
    "",
    'mapfile -t hosts < <(scontrol show hostnames "${SLURM_JOB_NODELIST_HET_GROUP_0:-$SLURM_JOB_NODELIST}")',
    "head=${hosts[0]}",
    'address=$(getent ahostsv4 "$head" | awk \'NR == 1 { print $1 }\') || { echo "no address: $head" >&2; exit 1; }',
    "port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs on one node take two ports",
]


def _symmetric(nodes: Nodes, driver: str) -> list[str]:
    count = nodes.count
    return [
        "export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600",
        QUOTED,
        f"srun --nodes={count} --ntasks={count} \\",
        f'    ray symmetric-run --address "$address:$port" --min-nodes {count} {_start(nodes)} -- \\',
        f'    env RAY_ADDRESS="$address:$port" {driver} &',
    ]


BY_HAND = [
    "",
    "# Only what this job started ends with it: `ray stop` would end other jobs' Rays on shared nodes.",
    "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT",
    "wait_for() { # WHAT COMMAND...: ten minutes at most",
    "    for _ in $(seq 300); do",
    '        "${@:2}" && return',
    '        kill -0 "$!" 2>/dev/null || { echo "Ray did not start: see $PWD/ray.log" >&2; exit 1; }',
    "        sleep 2",
    "    done",
    '    echo "gave up waiting for $1" >&2',
    "    exit 1",
    "}",
    "start() { # COMMAND...: a node that Ray gives up (it gives 30 seconds) is tried again, until the driver starts",
    "    trap 'kill \"$nodes\" 2>/dev/null; wait; exit' TERM",
    "    for _ in 1 2 3; do",
    '        "$@" >>ray.log 2>&1 &',
    "        nodes=$!",
    '        wait "$nodes" && return',
    "        [ ! -e driver.pid ] || return 1",
    "    done",
    "    return 1",
    "}",
    'answers() { ray health-check --address "$address:$port" 2>/dev/null; }',
    "complete() {",
    '    [ "$(ray list nodes --address "$address:$port" --filter state=ALIVE --format json 2>/dev/null |',
    '        grep -o \'"node_id"\' | wc -l)" -ge "$1" ]',
    "}",
]


def _head_worker(groups: list[tuple[str, Nodes]], driver: str) -> list[str]:
    """Return the start by hand: the head on the first node, a worker on each other, the driver when all are there."""
    steps = ["srun --overlap" + (f" --het-group={index}" if len(groups) > 1 else "") for index in range(len(groups))]
    ports = '--port="$port" --dashboard-port=$((port + 10000)) --ray-client-server-port=$((port + 20000))'
    lines = [
        *BY_HAND,
        f'start {steps[0]} --nodes=1 --ntasks=1 --nodelist="$head" \\',
        f'    ray start --head --block --node-ip-address="$address" {ports} \\',
        f"    --dashboard-host=127.0.0.1 {_start(groups[0][1])} {ANY_PORT} &",
        'wait_for "the head" answers',
    ]
    for index, (_, nodes) in enumerate(groups):
        workers = nodes.count - (index == 0)
        if workers:
            elsewhere = ' --exclude="$head"' if index == 0 else ""
            lines += [
                f"start {steps[index]} --nodes={workers} --ntasks={workers}{elsewhere} \\",
                f'    ray start --block --address="$address:$port" {_start(nodes)} {ANY_PORT} &',
            ]
    total = sum(nodes.count for _, nodes in groups)
    return [
        *lines,
        f'wait_for "{total} nodes" complete {total}',
        'export RAY_ADDRESS="$address:$port"',
        QUOTED,
        f'{steps[0]} --nodes=1 --ntasks=1 --nodelist="$head" {driver} &',
    ]
