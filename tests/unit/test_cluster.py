"""Clusters without a cluster: profiles, the files made from them, the code that is sent, what is refused before that.

kubectl, sbatch and their relatives are stand-ins that write down what they were given; the files themselves are checked
by what will read them: Ray's own validation, Kubernetes' schemas, shellcheck.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tests.unit.command_line import Said, understudy
from tests.unit.kuberay_schema import check_manifest, pod_templates

from understudy.cli.sweep import read_sweep
from understudy.cluster import code_parts
from understudy.cluster.code import check_code, code_hash, find_plugin, stage
from understudy.cluster.job import FILE, Job, More, default_words, remember
from understudy.cluster.jobs import open_cluster
from understudy.cluster.kinds.slurm import NUMBER
from understudy.cluster.ports import free_port, one_at_a_time
from understudy.cluster.profile import list_profiles, load_profile
from understudy.cluster.resuming import still_to_add
from understudy.cluster.slurm_script import BY_HAND
from understudy.cluster.storage import fetch_dataset
from understudy.cluster.tokens import find_token, make_token
from understudy.errors import UserError
from understudy.runs.directory import RunDir

SECRET = "s3cret-value-that-nobody-may-see"
NEEDED = {
    "local": (),
    "onprem": ("head.hosts=[10.0.0.1]", "workers.cpu.hosts=[10.0.0.2]", "workers.gpu.hosts=[10.0.0.3,10.0.0.4]"),
    "aws": ("image=registry/understudy:1", "storage.nfs=fs-1.efs.us-west-2.amazonaws.com:/"),
    "gcp": ("image=registry/understudy:1", "storage.nfs=10.0.0.9:/share", "cloud.project=mine"),
    "kuberay": ("image=registry/understudy:1",),
    "slurm": ("storage.path=/shared/understudy",),
}
"""What each shipped profile still wants from its user."""
SMALL = ("env_name=hopper-medium-v2", "lr=1e-4,1e-3", "num_trials=2")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an understudy home of its own, and no token of this machine's."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "UNDERSTUDY_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "home"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs `understudy WORDS` in this process."""

    def call(*words: str) -> Said:
        return understudy(monkeypatch, capsys, *words)

    return call


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that puts a stand-in program on the path, before all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def add(name: str, *lines: str) -> Path:
        path = folder / name
        path.write_text("\n".join(["#!/bin/sh", f'printf "%s\\n" "$@" >>{tmp_path}/{name}.argv', *lines]) + "\n")
        path.chmod(0o755)
        return tmp_path / f"{name}.argv"

    return add


def rendered(name: str, *changes: str) -> dict[str, str]:
    return open_cluster(load_profile(name, [*NEEDED[name], *changes])).render()


# ---- profiles ----


def test_every_kind_of_cluster_has_a_shipped_profile_that_loads() -> None:
    kinds = {load_profile(name).kind for name in list_profiles()}
    assert kinds == {"local", "address", "onprem", "aws", "gcp", "kuberay", "slurm"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("workers.cpu.cpu=2", "unknown key workers.cpu.cpu (did you mean 'cpus'?)"),
        ("storag.path=/x", "unknown key storag (did you mean 'storage'?)"),
        ("kind=slrum", "kind='slrum': no such choice (did you mean 'slurm'?)"),
        ("workers.cpu.count=-1", "workers.cpu.count=-1: must be greater than or equal to 0"),
        ("workers.cpu={count: 4, max: 2}", "max=2 is less than count=4"),
        ("head.memory=lots", "head.memory='lots'"),
        ("storage.path=shared", "must be an absolute path"),
        ("storage.nfs=server", "must be server:/export"),
        ("address=ray://host:10001", "must be http://HOST:PORT"),
        ("slurm.partition=a; rm -rf /", "slurm.partition"),
        ("workers=[1]", "workers=[1]: must be a valid dictionary"),
        ("workers.Big.count=1", "workers.Big"),
        ("head", "write key=value"),
    ],
)
def test_a_wrong_key_or_value_of_a_profile_is_one_line_with_what_is_allowed(run: Any, change: str, said: str) -> None:
    result = run("cluster", "show", "local", change)
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [
        f"secrets={{API_KEY: {SECRET}}}",
        f"secrets=[API_KEY={SECRET}]",
        f"environment.API_KEY={SECRET}",
        f"environment.WANDB_TOKEN={SECRET}",
        f"mlflow_uri=http://me:{SECRET}@host:5000",
        f"storage.uri=s3://me:{SECRET}@bucket",
        f"address=http://me:{SECRET}@host:8265",
    ],
)
def test_a_secret_written_into_a_profile_is_refused_and_not_repeated(run: Any, change: str) -> None:
    result = run("cluster", "show", "local", change)
    assert result.code == 2
    assert SECRET not in result.err + result.out
    assert "secret" in result.err


def test_a_profile_of_the_users_extends_a_shipped_one_key_by_key(home: Path) -> None:
    (home / "clusters").mkdir(parents=True)
    (home / "clusters" / "lab.yaml").write_text("extends: slurm\nstorage: {path: /lab}\nworkers: {cpu: {count: 8}}\n")
    profile = load_profile("lab", ["slurm.partition=main"])
    assert profile.name == "lab"
    assert profile.kind == "slurm"
    assert (profile.workers["cpu"].count, profile.workers["cpu"].cpus) == (8, 16)
    assert (profile.storage.path, profile.slurm.partition, profile.slurm.time) == ("/lab", "main", "1-00:00:00")


def test_a_users_profile_may_take_the_place_of_the_shipped_one_that_it_extends(home: Path) -> None:
    (home / "clusters").mkdir(parents=True)
    (home / "clusters" / "local.yaml").write_text("extends: local\nhead: {cpus: 3}\n")
    assert load_profile("local").head.cpus == 3


def test_a_profile_is_also_found_by_its_path_and_a_job_server_by_its_address(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: local\n")
    assert load_profile(str(tmp_path / "mine.yaml")).kind == "local"
    profile = load_profile("http://10.0.0.1:8265/")
    assert (profile.kind, profile.address) == ("address", "http://10.0.0.1:8265")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: b\n", "extends itself"),
        ("kind: [local\n", "line 2: not readable YAML"),
        ("- local\n", "must hold keys and values"),
        ("extends: lokal\n", "unknown profile 'lokal' (did you mean 'local'?)"),
        ("description: no kind\n", "kind"),
    ],
)
def test_an_unreadable_profile_is_one_line_that_names_it(home: Path, run: Any, text: str, said: str) -> None:
    (home / "clusters").mkdir(parents=True)
    (home / "clusters" / "a.yaml").write_text(text)
    (home / "clusters" / "b.yaml").write_text("extends: a\n")
    result = run("cluster", "show", "a")
    assert result.code == 2
    assert said in result.err
    assert run("cluster", "list").code == 0


# ---- what is made from them ----


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_what_a_profile_lacks_is_one_line_that_says_how_to_give_it(run: Any, name: str) -> None:
    result = run("cluster", "render", name)
    assert result.code == (2 if NEEDED[name] else 0)
    assert not NEEDED[name] or f"profile {name} needs " in result.err
    assert run("cluster", "render", name, *NEEDED[name]).code == 0


@pytest.mark.parametrize("name", ["onprem", "aws", "gcp"])
@pytest.mark.parametrize("change", ["image=registry/understudy:1", "image=", "authentication=none"])
def test_rays_own_launcher_takes_the_yaml_for_machines_and_clouds(name: str, change: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(rendered(name, change)["cluster.yaml"])
    prepared = prepare_config(config)
    validate_config(prepared)
    if name != "onprem":
        assert prepared["available_node_types"]["gpu"]["resources"]["GPU"] == 1
        assert prepared["available_node_types"]["cpu"]["max_workers"] == 8
    else:
        assert prepared["provider"]["worker_ips"] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]


@pytest.mark.parametrize("name", ["onprem", "aws", "gcp"])
def test_a_head_of_rays_launcher_asks_for_a_token_and_keeps_its_job_server_to_itself(name: str) -> None:
    config = yaml.safe_load(rendered(name)["cluster.yaml"])
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [line for line in config[key] if " ray start " in line]
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.understudy-token ray start" in start
    assert "--dashboard-host=127.0.0.1" in "".join(config["head_start_ray_commands"])
    assert list(config["file_mounts"]) == ["~/.understudy-token"]


KUBERAY = ("", "authentication=none", "secrets=[MLFLOW_TRACKING_PASSWORD]", "storage.nfs=10.0.0.9:/share")


@pytest.mark.parametrize("change", [*KUBERAY, "workers={}", "kubernetes.pull_secret=registry"])
def test_kubernetes_takes_the_manifests_of_a_cluster_and_of_a_job(change: str) -> None:
    files = rendered("kuberay", *filter(None, [change]))
    assert set(files) == {"raycluster.yaml", "rayjob.yaml"}
    for text in files.values():
        check_manifest(yaml.safe_load(text))


def test_pods_ask_for_the_groups_resources_and_see_the_shared_folder() -> None:
    cluster = yaml.safe_load(rendered("kuberay", "workers.gpu.gpus=2")["raycluster.yaml"])
    head, _, gpu = (template["spec"] for template in pod_templates(cluster))
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert gpu["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    assert {"name": "storage", "mountPath": "/mnt/understudy"} in head["containers"][0]["volumeMounts"]


GROUPS = "workers={cpu: {count: 2, cpus: 8}, gpu: {count: 2, cpus: 8, gpus: 4, gpu_type: a100}}"


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("authentication=none",),
        ("slurm.start=head-worker",),
        ("slurm.start=head-worker", GROUPS, "slurm.partition=main", "slurm.options=[--constraint=ib]"),
        ("setup_commands=[module load cuda, source venv/bin/activate]", "environment.A=it's $HOME"),
    ],
)
def test_shellcheck_finds_nothing_in_the_batch_scripts(tmp_path: Path, changes: tuple[str, ...]) -> None:
    (script,) = rendered("slurm", *changes).values()
    shellcheck(tmp_path, script)


def test_shellcheck_finds_nothing_in_the_start_of_a_local_cluster(tmp_path: Path) -> None:
    shellcheck(tmp_path, rendered("local", "workers.cpu={count: 2, cpus: 1}")["start.sh"])


def shellcheck(folder: Path, script: str) -> None:
    path = folder / "script.sh"
    path.write_text(script)
    tool = Path(sys.executable).with_name("shellcheck")  # its wheel puts it there, which need not be on the PATH
    result = subprocess.run([str(tool), "--shell=bash", str(path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_groups_of_different_nodes_are_components_of_one_slurm_job() -> None:
    (script,) = rendered("slurm", "slurm.start=head-worker", GROUPS, "slurm.partition=main").values()
    first, second = script.split("#SBATCH hetjob")
    assert "#SBATCH --partition=main" in first
    assert "#SBATCH --gres=gpu:a100:4" in second
    assert "#SBATCH --partition=main" in second
    assert "ray stop\n" not in script
    with pytest.raises(UserError, match=r"one group of equal nodes, not cpu, gpu: give slurm\.start=head-worker"):
        rendered("slurm", GROUPS)


def test_what_sbatch_kept_of_the_environment_does_not_limit_what_srun_hands_on() -> None:
    (script,) = rendered("slurm").values()
    lines = script.splitlines()
    step = next(index for index, line in enumerate(lines) if line.startswith("srun "))
    assert any(line.startswith("export SLURM_EXPORT_ENV=ALL") for line in lines[:step])
    assert any("RAY_AUTH_MODE=token" in line for line in lines[:step])


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_no_file_holds_the_value_of_a_secret(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    texts = "".join(rendered(name, "secrets=[MLFLOW_TRACKING_PASSWORD]").values())
    assert texts
    assert SECRET not in texts


def test_files_are_written_where_they_are_wanted(run: Any, tmp_path: Path) -> None:
    assert run("cluster", "render", "slurm", *NEEDED["slurm"], "-o", str(tmp_path / "made")).code == 0
    assert os.access(tmp_path / "made" / "job.sbatch", os.X_OK)


# ---- the code that is sent ----


@pytest.fixture(params=["package", "folder"])
def plugin(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a folder of plug-ins, with and without an __init__.py."""
    folder = tmp_path / "mine" / "my_plugins"
    folder.mkdir(parents=True)
    if request.param == "package":
        (folder / "__init__.py").write_text("")
    (folder / "spaces.py").write_text("X = 1\n")
    return folder


def test_exactly_the_running_package_is_sent_its_links_followed(tmp_path: Path, plugin: Path, repo_root: Path) -> None:
    sent = tmp_path / "sent"
    name = stage(sent, [find_plugin(str(plugin))])
    inside_package = ("spec/run.py", "envs/store/store.py", "trainables/algorithms/bc.py", "conf/run.yaml")
    for inside in (*inside_package, "cluster/profiles/local.yaml"):
        held = sent / "understudy" / inside
        assert held.read_bytes() == (repo_root / "platform" / "understudy" / inside).read_bytes()
        assert not held.is_symlink()
    assert not list(sent.rglob("__pycache__"))
    assert (sent / "my_plugins" / "spaces.py").read_text() == "X = 1\n"
    assert code_hash(sent, ["my_plugins"]) == name
    check_code(code_hash(sent), ())


def test_the_hash_tells_one_changed_byte_and_the_driver_refuses_other_code(tmp_path: Path, plugin: Path) -> None:
    first = stage(tmp_path / "a", [find_plugin(str(plugin))])
    (plugin / "spaces.py").write_text("X = 2\n")
    second = stage(tmp_path / "b", [find_plugin(str(plugin))])
    assert first != second
    with pytest.raises(UserError, match="another understudy hides the job's own"):
        check_code(second, ())


@pytest.mark.parametrize("text", ["nowhere/at/all", "no_such_module_here", "json", "{tmp}", "{tmp}/notes.txt"])
def test_what_is_no_plugin_is_refused_in_one_line(run: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "notes.txt").write_text("")
    result = run("submit", "sweep", *SMALL, "--plugin", text.format(tmp=tmp_path))
    assert result.code == 2
    assert "--plugin" in result.err
    assert result.err.count("\n") == 1


# ---- what is refused before anything is sent ----


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("swep", *SMALL), "cannot submit 'swep' (did you mean 'sweep'?)"),
        ((), "allowed: sweep, train"),
        (("sweep", *SMALL, "batchsize=3"), "did you mean 'batch_size'?"),
        (("sweep", *SMALL, "batch_size=0"), "batch_size=0"),
        (("sweep", "env_name=hopper-medium-v2"), "nothing to sweep"),
        (("train", "lr=1e-4,1e-3"), "lr has several values"),
        (("train", "algo=bcc"), "unknown algorithm 'bcc' (did you mean 'bc'?)"),
        (("train", "--name", "My Job"), "--name My Job"),
        (("train", "--profile", "locla"), "unknown profile 'locla' (did you mean 'local'?)"),
        (("train",), "understudy cluster up local"),
        (("train", "--profile", "http://127.0.0.1:9", "save_dir=/x"), "needs storage.path"),
        (("train", "--profile", "{profile}", "save_dir=/elsewhere"), "save_dir=/elsewhere is not on the storage"),
        (("train", "--profile", "{profile}", "data_dir=/elsewhere"), "put it below /shared"),
        (("train", "--profile", "{profile}"), "no job server answers at http://127.0.0.1:9"),
    ],
)
def test_a_job_that_could_not_run_is_one_line_and_leaves_nothing_behind(
    run: Any, tmp_path: Path, home: Path, words: tuple[str, ...], said: str
) -> None:
    profile = tmp_path / "there.yaml"
    profile.write_text("extends: address\naddress: http://127.0.0.1:9\nstorage: {path: /shared}\n")
    result = run("submit", *(word.format(profile=profile) for word in words))
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1
    assert not home.exists()


@pytest.mark.parametrize(
    ("profile", "tool"), [("kuberay", "kubectl"), ("slurm", "squeue"), ("onprem", "ssh"), ("aws", "ssh")]
)
def test_a_missing_program_is_one_line_that_names_it(
    run: Any, monkeypatch: pytest.MonkeyPatch, profile: str, tool: str
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = run("cluster", "status", profile, *NEEDED[profile])
    assert result.code == 2
    assert f"{tool} is not installed here" in result.err
    assert result.err.count("\n") == 1


def test_a_failing_program_is_one_line_with_what_it_said(run: Any, tools: Any) -> None:
    tools("kubectl", "echo 'The connection to the server was refused' >&2", "exit 1")
    result = run("cluster", "status", "kuberay", *NEEDED["kuberay"])
    assert result.code == 1
    assert "kubectl --namespace=default failed (exit 1): The connection to the server was refused" in result.err


def test_a_token_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "clusters" / "local" / "token"
    make_token(path)
    first = path.read_text()
    assert len(first) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    make_token(path)
    assert path.read_text() == first
    token = find_token(load_profile("local", [f"token_path={path}"]))
    assert token is not None
    assert first not in repr(token)


def test_an_unset_secret_is_named_before_a_job_is_sent(run: Any, tools: Any, tmp_path: Path) -> None:
    tools("kubectl", "echo '{\"items\": []}'")
    (tmp_path / "k.yaml").write_text("extends: kuberay\nimage: a:1\nsecrets: [NOT_SET_HERE]\n")
    result = run("submit", "sweep", *SMALL, "--profile", str(tmp_path / "k.yaml"))
    assert result.code == 2
    assert "not set in the environment here: NOT_SET_HERE" in result.err


# ---- KubeRay and Slurm, up to their own programs ----


def test_a_job_for_kubernetes_is_its_code_its_secrets_and_a_rayjob(
    run: Any, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugin: Path
) -> None:
    given = tmp_path / "manifests"
    argv = tools("kubectl", f'case "$*" in *apply*) cat >{given};; *) echo \'{{"items": []}}\';; esac')
    (tmp_path / "k.yaml").write_text(
        "extends: kuberay\nimage: a:1\nsecrets: [MLFLOW_TRACKING_PASSWORD]\nmlflow_uri: http://mlflow:5000\n"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setattr(code_parts, "PART_BYTES", 400_000)
    words = ("--profile", str(tmp_path / "k.yaml"), "--plugin", str(plugin), "--name", "monday")
    said = run("submit", "sweep", *SMALL, *words)
    assert said.code == 0, said.err

    secret, *parts, job = (json.loads(text) for text in given.read_text().split("\n---\n"))
    assert len(parts) > 1
    for manifest in (secret, *parts, job):
        check_manifest(manifest)
    assert secret["stringData"] == {"MLFLOW_TRACKING_PASSWORD": SECRET}
    assert SECRET not in json.dumps([parts, job]) + said.out + said.err + argv.read_text()
    assert SECRET not in "".join(path.read_text() for path in (tmp_path / "home").rglob("*.json"))

    archive = zipfile.ZipFile(joined(tmp_path, parts, job))
    archive.extractall(tmp_path / "unpacked")
    described = json.loads((tmp_path / "unpacked" / "code" / "job.json").read_text())
    assert code_hash(tmp_path / "unpacked" / "code", ["my_plugins"]) == described["code"]
    assert described["folder"] == "/mnt/understudy/runs/bc_training/BC/hopper-medium-v2/monday"
    assert described["spec"]["run"]["data_dir"] == "/mnt/understudy/datasets"
    assert described["spec"]["run"]["tracking_uri"] == "http://mlflow:5000"
    environment = yaml.safe_load(job["spec"]["runtimeEnvYAML"])
    assert environment == {
        "working_dir": "file:///understudy/code.zip",
        "env_vars": {"UNDERSTUDY_PLUGINS": "my_plugins"},
    }
    assert job["spec"]["entrypoint"] == "python -m understudy jobs run job.json"


def joined(tmp_path: Path, parts: list[dict[str, Any]], job: dict[str, Any]) -> Path:
    """Do what the head's pod does with the parts of the code, by the command in it; return the zip."""
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (start,) = pod["initContainers"]
    sources = {item["configMap"]["name"] for v in pod["volumes"] for item in v.get("projected", {}).get("sources", [])}
    places = {mount["mountPath"]: tmp_path / mount["name"] for mount in start["volumeMounts"]}
    for place in places.values():
        place.mkdir()
    for part in parts:
        assert part["metadata"]["name"] in sources
        for name, content in part["binaryData"].items():
            assert len(base64.b64decode(content)) <= 2**20
            (tmp_path / "parts" / name).write_bytes(base64.b64decode(content))
    words = start["command"][-1]
    for inside, place in sorted(places.items(), reverse=True):
        words = words.replace(f"{inside}/", f"{place}/")
    subprocess.run([*start["command"][:-1], words], check=True)
    return tmp_path / "code" / "code.zip"


def test_code_that_no_eight_configmaps_hold_is_refused(
    run: Any, tools: Any, tmp_path: Path, plugin: Path, monkeypatch
) -> None:
    tools("kubectl", "echo '{\"items\": []}'")
    monkeypatch.setattr(code_parts, "PART_BYTES", 1000)
    (tmp_path / "k.yaml").write_text("extends: kuberay\nimage: a:1\n")
    said = run("submit", "sweep", *SMALL, "--profile", str(tmp_path / "k.yaml"), "--plugin", str(plugin))
    assert said.code == 2
    assert "a job may bring 0.008 MB: keep data and weights out of the plug-ins' folders" in said.err


RAYJOB = {
    "metadata": {"name": "monday", "creationTimestamp": "2026-01-02T03:04:05Z"},
    "status": {"jobStatus": "RUNNING", "jobDeploymentStatus": "Running", "startTime": "2026-01-02T03:05:05Z"},
}


def test_jobs_on_kubernetes_are_listed_followed_and_suspended(run: Any, tools: Any, tmp_path: Path) -> None:
    (tmp_path / "items.json").write_text(json.dumps({"items": [RAYJOB]}))
    argv = tools("kubectl", f'case "$*" in *"get rayjobs"*) cat {tmp_path}/items.json;; *logs*) echo hello;; esac')
    (tmp_path / "k.yaml").write_text("extends: kuberay\nimage: a:1\n")
    profile = ("--profile", str(tmp_path / "k.yaml"))
    assert "monday" in run("jobs", "list", *profile).out
    assert run("jobs", "logs", "monday", *profile).out == "hello\n"
    assert "is suspended" in run("jobs", "stop", "monday", *profile).out
    assert '--patch={"spec":{"suspend":true}}' in argv.read_text()
    wrong = run("jobs", "logs", "mondy", *profile)
    assert wrong.code == 2
    assert "has no job 'mondy' (did you mean 'monday'?)" in wrong.err


def test_a_job_for_slurm_is_a_folder_on_the_shared_storage_and_an_sbatch(
    run: Any, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    argv = tools("sbatch", f"env >{tmp_path}/sbatch.env", "echo '4711;cluster'")
    state = tmp_path / "state"
    state.write_text("PENDING")
    tools("scontrol", f'echo "JobId=4711 JobState=$(cat {state}) EndTime=2026-01-02T03:04:05"')
    cancelled = tools("scancel")
    (tmp_path / "s.yaml").write_text(
        f"extends: slurm\nstorage: {{path: {shared}}}\nsecrets: [MLFLOW_TRACKING_PASSWORD]\n"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    profile = ("--profile", str(tmp_path / "s.yaml"))
    said = run("submit", "sweep", *SMALL, *profile, "--name", "monday")
    assert said.code == 0, said.err

    folder = shared / "jobs" / "monday"
    described = json.loads((folder / "job.json").read_text())
    assert code_hash(folder / "code") == described["code"]
    assert described["spec"]["run"]["save_dir"] == f"{shared}/runs"
    assert described["spec"]["run"]["tracking_uri"] == "http://mlflow:5000"
    shellcheck(tmp_path, (folder / "job.sbatch").read_text())
    assert "--export=HOME,USER,PATH,LANG,MLFLOW_TRACKING_PASSWORD" in argv.read_text().splitlines()
    assert SECRET in (tmp_path / "sbatch.env").read_text()
    written = "".join(path.read_text() for path in [*folder.glob("*.*"), *(tmp_path / "home").rglob("*.json")])
    assert SECRET not in written + argv.read_text() + said.out

    assert "pending" in run("jobs", "list", *profile).out
    (folder / "job.log").write_text("one\ntwo\n")
    assert run("jobs", "logs", "monday", *profile).out == "one\ntwo\n"
    assert "is being cancelled" in run("jobs", "stop", "monday", *profile).out
    assert cancelled.read_text() == "4711\n"
    state.write_text("RUNNING")
    assert "is being stopped" in run("jobs", "stop", "monday", *profile).out
    assert cancelled.read_text().splitlines()[1:] == ["--batch", "--signal=TERM", "4711"]
    state.write_text("FAILED ExitCode=143:0")
    assert "stopped" in run("jobs", "list", *profile).out
    state.write_text("PENDING")
    refused = run("jobs", "resume", "monday", *profile)
    assert "monday is pending: `understudy jobs stop monday` ends it first" in refused.err
    state.write_text("CANCELLED")
    assert "--add-steps -1: must be at least 1" in run("jobs", "resume", "monday", *profile, "--add-steps", "-1").err
    resumed = run("jobs", "resume", "monday", *profile, "--add-trials", "20", "--retry-failed")
    assert resumed.code == 0, resumed.err
    again = json.loads((shared / "jobs" / "monday-r1" / "job.json").read_text())
    assert (again["id"], again["folder"], again["spec"]) == ("monday-r1", described["folder"], described["spec"])
    assert again["more"] == {"add_steps": 0, "add_trials": 20, "retry_failed": True, "change_space": []}
    assert run("submit", "sweep", *SMALL, *profile, "--name", "monday").code == 2


def test_a_driver_that_is_started_again_adds_nothing_twice_to_its_jobs_folder(tmp_path: Path) -> None:
    job = Job(id="monday-r1", kind="sweep", folder=str(tmp_path), spec={}, code="0" * 16, more=More(add_trials=20))
    assert still_to_add(job) == More(add_trials=20)
    assert still_to_add(job) == More()
    assert still_to_add(job.model_copy(update={"id": "monday-r2"})) == More(add_trials=20)
    with pytest.raises(UserError, match="the job is a run: --add-trials"):
        job.more.check("train")


def test_jobs_that_another_version_described_in_other_words_are_listed_without_a_description(
    run: Any, tools: Any, tmp_path: Path
) -> None:
    items = [{**RAYJOB, "metadata": {**RAYJOB["metadata"], "annotations": {"understudy.job": '{"id": 1}'}}}]
    (tmp_path / "items.json").write_text(json.dumps({"items": items}))
    tools("kubectl", f"cat {tmp_path}/items.json")
    (tmp_path / "k.yaml").write_text("extends: kuberay\nimage: a:1\n")
    assert "running" in run("jobs", "list", "--profile", str(tmp_path / "k.yaml")).out


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "UNDERSTUDY_STUDY_STORAGE"])
def test_an_address_with_a_password_must_be_a_secret(run: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, f"postgresql+psycopg2://me:{SECRET}@host:5000/it?sslmode=require")
    result = run("submit", "sweep", *SMALL)
    assert result.code == 2
    assert f"list {name} in the profile's secrets" in result.err
    assert SECRET not in result.err
    profile = load_profile("local", [f"secrets=[{name}]"])
    assert not [word for word in default_words(profile, "sweep") if SECRET in word]


def test_a_job_is_told_the_addresses_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("UNDERSTUDY_STUDY_STORAGE", "postgresql+psycopg2://host/study?sslmode=require")
    words = default_words(load_profile("local"), "sweep")
    spec = read_sweep([*words, *SMALL])
    assert spec.options.study_storage == "postgresql+psycopg2://host/study?sslmode=require"
    assert spec.base.placement.tracking_uri == "http://mlflow:5000"
    assert not [word for word in default_words(load_profile("local"), "train") if word.startswith("study_storage")]


# ---- storage beside the shared folder ----


def test_a_dataset_comes_from_the_object_store_whole_whatever_an_earlier_fetch_left(tmp_path: Path) -> None:
    bucket, datasets = tmp_path / "bucket", tmp_path / "shared" / "datasets"
    (bucket / "datasets" / "toy").mkdir(parents=True)
    (bucket / "datasets" / "toy" / "manifest.json").write_text("{}")
    (datasets / ".toy.0badc0de").mkdir(parents=True)
    for name in ("toy", "toy", "not-there"):
        fetch_dataset(f"file://{bucket}", datasets, name)
    assert [path.name for path in (datasets / "toy").iterdir()] == ["manifest.json"]
    assert {path.name for path in datasets.iterdir()} == {"toy", ".toy.0badc0de"}


def test_a_dataset_that_is_not_the_object_stores_is_used_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket, datasets = tmp_path / "bucket", tmp_path / "datasets"
    for folder, content in ((bucket / "datasets" / "toy", "a" * 32), (datasets / "toy", "b" * 32)):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"content_hash": content}))
    fetch_dataset(f"file://{bucket}", datasets, "toy")
    assert "(hash bbbbbbbbbbbb) is not the dataset in" in caplog.text
    assert "(hash aaaaaaaaaaaa): the folder's is used" in caplog.text
    caplog.clear()
    shutil.rmtree(datasets / "toy")
    for _ in range(2):
        fetch_dataset(f"file://{bucket}", datasets, "toy")
    assert "is not the dataset" not in caplog.text


def test_runs_of_a_profile_with_an_object_store_are_copied_there_as_they_train(tmp_path: Path) -> None:
    profile = load_profile("slurm", ["storage.path=/shared", "storage.uri=s3://bucket/mine/"])
    assert "checkpoint_storage=s3://bucket/mine/runs" in default_words(profile, "train")


# ---- the image ----


def test_the_image_is_built_from_the_pins_and_from_what_is_in_the_repository(repo_root: Path) -> None:
    lines = (repo_root / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    names = [name for sources in copied for name in sources if not name.startswith("--")]
    assert {"pyproject.toml", "constraints.txt", "platform", "envs", "cluster"} <= set(names)
    assert [name for name in names if not (repo_root / name).exists()] == []
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs if "understudy" in line or "'.[" in line)
    assert [line for line in lines if line.startswith("FROM") and line.endswith(":latest")] == []
    assert any(line.startswith("USER ") and not line.endswith("root") for line in lines)


def test_docker_builds_see_what_the_image_copies_and_not_what_runs_made(repo_root: Path) -> None:
    ignored = (repo_root / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv", "runs", "**/__pycache__"} <= set(ignored)


def test_jobs_submitted_from_here_are_listed_when_their_head_is_gone(run: Any, home: Path, tmp_path: Path) -> None:
    said = run("jobs", "list")
    assert (said.code, "local is down" in said.err) == (2, True), "nothing is known, so there is nothing to list"
    folder = tmp_path / "done"
    RunDir(folder).update_state(status="finished")
    for name, place in (("monday", folder), ("tuesday", tmp_path / "not-begun")):
        job = Job(id=name, kind="sweep", folder=str(place), spec={"run": {"env_name": "hopper"}}, code="0" * 16)
        remember(load_profile("local"), job)
    said = run("jobs", "list")
    assert said.code == 0, said.err
    assert (
        "local is down: start it with `understudy cluster up local`; this is what was submitted from here:" in said.out
    )
    lines = {line.split()[0]: line for line in said.out.splitlines() if line.strip()}
    monday, tuesday = lines["monday"], lines["tuesday"]
    assert "finished" in monday
    assert "sweep hopper" in monday
    assert "unknown" in tuesday


def test_a_job_whose_file_is_missing_or_none_is_one_line_and_hides_no_other(run, tmp_path, caplog) -> None:
    for name, data in (("gone", None), ("broken", b"{"), ("bytes", b"\xff\xfe")):
        file = tmp_path / name
        if data is not None:
            file.write_bytes(data)
        said = run("jobs", "run", str(file))
        assert said.code == 2
        assert len(said.err.splitlines()) == 1
        assert name in said.err
    slurm = open_cluster(load_profile("slurm", [f"storage.path={tmp_path / 'shared'}"]))
    for name in ("gone", "broken"):
        folder = tmp_path / "shared" / "jobs" / name
        folder.mkdir(parents=True)
        (folder / NUMBER).write_text("7")
    (folder / FILE).write_bytes(b"{")
    assert slurm.jobs() == []
    assert [record.message.split(":")[0] for record in caplog.records].count("left out") == 2


def test_clusters_that_come_up_at_once_choose_their_ports_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    came_up: list[str] = []

    def come_up() -> None:
        with one_at_a_time():
            came_up.append("second")

    second = threading.Thread(target=come_up)
    with one_at_a_time():
        second.start()
        second.join(0.5)
        came_up.append("first")
    second.join()
    assert came_up == ["first", "second"]


def test_a_port_that_is_taken_is_replaced_by_a_free_one() -> None:
    with socket.socket() as server:
        server.bind(("", 0))
        taken = server.getsockname()[1]
        assert free_port(taken) not in (0, taken)


def run_by_hand(folder: Path, node: str) -> subprocess.CompletedProcess[str]:
    """Run the part of a batch script that starts Ray, with `node` as what `ray start` does on its COUNTth attempt."""
    (folder / "node").write_text(f"count=$(cat count 2>/dev/null || echo 0)\necho $((count + 1)) >count\n{node}\n")
    script = ["set -euo pipefail", "address=a port=1", *BY_HAND, "start sh node &"]
    script += ['wait_for "the head" test -e up', "echo it came up"]
    return subprocess.run(["bash", "-c", "\n".join(script)], cwd=folder, capture_output=True, text=True, timeout=600)


def test_a_node_of_a_batch_job_that_does_not_come_up_in_time_is_tried_again_and_ended_with_the_job(
    tmp_path: Path,
) -> None:
    done = run_by_hand(tmp_path, '[ "$count" -ge 1 ] || exit 1\necho $$ >pid\ntouch up\nexec sleep 1000')
    assert (done.returncode, done.stdout) == (0, "it came up\n")
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_batch_job_whose_node_never_comes_up_ends_and_says_where_the_reason_is(tmp_path: Path) -> None:
    done = run_by_hand(tmp_path, "exit 1")
    assert (done.returncode, done.stderr) == (1, f"Ray did not start: see {tmp_path}/ray.log\n")
    assert (tmp_path / "count").read_text() == "3\n"
