"""`understudy serve`: a policy behind an address."""

from __future__ import annotations

from pathlib import Path

import typer

from understudy.cli.output import HELP_WIDTH, console, examples
from understudy.registry import commands


@commands.register("serve")
def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Answer observations with chunks of actions, over HTTP and WebSocket.",
        context_settings=HELP_WIDTH,
        options_metavar="[OPTIONS]",
        epilog=examples(
            "understudy serve models:/flow_bc-lift-mh-low_dim@best",
            "understudy serve runs/fbc/.../sd000_20260101_120000 n_action_steps=8 --host 0.0.0.0 --port 8001",
            "understudy serve models:/lift@best --token_file robot.token --temperature 0",
            "understudy serve models:/lift@best --cluster --replicas 4 --replica_gpus 0.25",
        ),
    )(serve)


def serve(
    model: str = typer.Argument(
        ..., metavar="MODEL", help="models:/NAME@ALIAS, runs:/RUN_ID/model, a run, a sweep or a policy folder"
    ),
    keys: list[str] = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="evaluation-time settings of the method (flow_steps=5, n_action_steps=8)"
    ),
    host: str = typer.Option("127.0.0.1", "--host", help="address to listen on; any other than this needs the token"),
    port: int = typer.Option(8000, "--port", min=0, max=65535, help="0: any that is free"),
    token_file: Path | None = typer.Option(
        None,
        "--token_file",
        help="file (mode 0600) with the token that clients send; default $UNDERSTUDY_SERVE_TOKEN, else"
        " $UNDERSTUDY_HOME/serve.token, which is made",
    ),
    no_token: bool = typer.Option(False, "--no_token", help="answer whoever is on this machine"),
    temperature: float | None = typer.Option(
        None, "--temperature", min=0, help="scale of the policy's noise; default the method's own, mostly 0"
    ),
    seed: int | None = typer.Option(None, "--seed", help="of several seeds, the one that acts; default the first"),
    noise_seed: int = typer.Option(1_000_000, "--noise_seed", min=0, help="seed of the noise: evaluations' eval_seed"),
    device: str = typer.Option("auto", "--device", help="cpu, cuda, cuda:1, mps or auto"),
    max_request: float = typer.Option(16, "--max_request", min=0.001, max=4096, help="largest request, MiB"),
    max_clients: int = typer.Option(64, "--max_clients", min=1, max=65536, help="clients at a time"),
    tracking_uri: str = typer.Option("", "--tracking_uri", help="where models:/ and runs:/ are looked up"),
    cluster: bool = typer.Option(
        False, "--cluster", help="on Ray Serve: of the Ray at $RAY_ADDRESS, else one of this machine"
    ),
    replicas: int = typer.Option(1, "--replicas", min=1, max=1024, help="--cluster: processes that answer"),
    replica_cpus: float = typer.Option(1, "--replica_cpus", min=0, help="--cluster: CPUs of each"),
    replica_gpus: float = typer.Option(0, "--replica_gpus", min=0, help="--cluster: GPUs of each, 0.5 for half of one"),
) -> None:
    """Answer observations with chunks of actions, over HTTP and WebSocket, until Ctrl-C.

    Requests that arrive together are decided in one call of the policy. A client has its own history, goal and
    episode, and gets whole chunks, so that it can ask for the next one while it still executes the last: a robot then
    waits for no network. docs/deploy.md has the messages, and a client of 60 lines without torch.
    """
    from understudy.cli.evaluate import folder_of
    from understudy.envs.serving.running import serve as run
    from understudy.envs.serving.settings import Settings, server_token
    from understudy.errors import UserError

    if no_token and token_file is not None:
        raise UserError("--no_token and --token_file: give one of them")
    if not cluster and (replicas, replica_cpus, replica_gpus) != (1, 1, 0):
        raise UserError("--replicas, --replica_cpus and --replica_gpus change nothing without --cluster")
    token, place = ("", "") if no_token else server_token(token_file)
    settings = Settings(
        model=folder_of(model),
        words=tuple(keys or ()),
        tracking_uri=tracking_uri,
        device=device,
        member_seed=seed,
        temperature=temperature,
        noise_seed=noise_seed,
        token=token,
        host=host,
        port=port,
        max_request=int(max_request * 2**20),
        max_clients=max_clients,
    )

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    if cluster:
        from understudy.envs.serving.on_ray import serve as run_on_ray

        run_on_ray(settings, replicas, replica_cpus, replica_gpus, say, place)
    else:
        run(settings, say, place)
