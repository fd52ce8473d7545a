"""Read and fetch the folders of Minari datasets with minari's own storage classes."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from understudy.envs.files.reading import DAMAGE, WrongContent, check_readable, damage, read_json, understood
from understudy.envs.sources.minari.observed import OBSERVATIONS, Observed, final_of
from understudy.envs.sources.task import Episode, Settings
from understudy.envs.store.column_kinds import Declared
from understudy.envs.store.store import IMAGES
from understudy.errors import DatasetError, StorageError, UserError
from understudy.files import storage_errors
from understudy.folders import restore_folder

METADATA = "metadata.json"
KEPT = ("env_spec", "eval_env_spec", "observation_space", "action_space", "ref_min_score", "ref_max_score")
NOTED = ("dataset_id", "minari_version", "algorithm_name", "description", "code_permalink", "author")
DESCRIBE = "a Minari dataset is a folder with data/metadata.json"


def metadata_folder(path: Path) -> Path:
    """Return the folder that holds metadata.json: `path`, or `data` in it."""
    for folder in (path, restore_folder(path / "data")):
        if (folder / METADATA).is_file():
            return folder
    found = sorted(path.glob(f"*/**/data/{METADATA}")) if path.is_dir() else []
    if len(found) == 1:
        return found[0].parent
    if found:
        some = ", ".join(str(file.parent.parent.relative_to(path)) for file in found[:3])
        raise DatasetError(f"{path}: holds {len(found)} datasets ({some}, ...); give the folder of one")
    raise DatasetError(f"{path}: no {METADATA} in it; {DESCRIBE}")


def data_files(path: Path) -> list[Path]:
    """Return the dataset's files, sorted."""
    return sorted(file for file in metadata_folder(path).rglob("*") if file.is_file())


def provenance(path: Path) -> dict[str, Any]:
    """Return the metadata that say how the data were made, and under `environment` what `recover` needs."""
    metadata = _metadata(metadata_folder(path))
    space = _spaces(metadata, metadata_folder(path)).get("observation_space")
    note: dict[str, Any] = {key: metadata[key] for key in NOTED if key in metadata}
    environment = {key: metadata[key] for key in KEPT if metadata.get(key) is not None}
    if isinstance(space, spaces.Dict):
        observed = Observed.of(space)
        state = observed.state.spaces if isinstance(observed.state, spaces.Dict) else {}
        note["observation"] = [f"{key} [{spaces.flatdim(part)}]" for key, part in state.items()]
        note["notes"] = [
            f"observations: {key!r}, {list(part.shape or ())} of {part.dtype}, is flattened into the state: no camera"
            for key, part in state.items()
            if isinstance(part, spaces.Box) and len(part.shape) > 1
        ]
        environment |= {"cameras": list(observed.cameras)} if observed.cameras else {}
    return {**note, "environment": environment}


def declared(path: Path) -> dict[str, Declared]:
    """Return the bounds that the observations' space gives to pictures."""
    space = _spaces(_metadata(metadata_folder(path)), metadata_folder(path)).get("observation_space")
    if space is None:
        return {}
    observed = Observed.of(space)
    boxes = {IMAGES + name: observed.box(name) for name in observed.cameras}
    if isinstance(space, spaces.Box) and len(space.shape) > 1:
        boxes[OBSERVATIONS] = space
    ends = {name: (float(box.low.min()), float(box.high.max())) for name, box in boxes.items()}
    return {name: Declared(bounds=bounds) for name, bounds in ends.items() if np.isfinite(bounds).all()}


def read_episodes(path: Path, make_env: Callable[[Settings], Any]) -> Iterator[Episode]:
    """Yield a dataset's episodes; `make_env(settings)` is asked for spaces that the file leaves out."""
    folder = metadata_folder(path)
    metadata = _metadata(folder)
    for file in data_files(path):
        check_readable(file, "Minari")
    storage = _storage(folder, metadata, make_env)
    _check_spaces(storage.observation_space, storage.action_space, folder)
    steps = 0
    for number in range(int(metadata["total_episodes"])):
        episode = _read_episode(storage, number, folder)
        steps += len(episode["actions"])
        yield episode
    if steps != metadata["total_steps"]:
        raise DatasetError(f"{folder}: holds {steps} steps, {METADATA} says {metadata['total_steps']}; it is cut short")


def download(name: str, folder: Path, progress: Callable[[int, int], None] | None) -> Path:
    """Fetch a published dataset into `folder/<name>` with minari's storage client and return that folder."""
    from understudy.envs.files.downloads import DownloadError, Unreachable

    try:
        from minari.storage.remotes import get_cloud_storage

        storage = get_cloud_storage()
    except ImportError as error:
        raise UserError(f"minari:{name}: fetching it needs a client; run `pip install 'minari[hf]'`") from error
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        storage.download_dataset(name, folder)
    except Exception as error:  # the hub's client has errors of its own of many kinds
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise StorageError(f"no space left while fetching minari:{name} to {folder}") from error
        raise Unreachable(f"minari:{name}: Minari's hub cannot be reached ({said}); is this machine online?") from error
    target = folder / name
    if not (target / "data" / METADATA).is_file():
        raise DownloadError(f"minari:{name}: Minari's hub has no dataset of that name")
    if progress is not None:
        size = sum(file.stat().st_size for file in data_files(target))
        progress(size, size)
    return target


def _metadata(folder: Path) -> dict[str, Any]:
    from minari import supported_dataset_versions

    file = folder / METADATA
    metadata = read_json(file, "Minari")
    with understood(file, "Minari"):
        counts = [int(metadata[key]) for key in ("total_episodes", "total_steps")]
        version = metadata["minari_version"]
    if version not in supported_dataset_versions:
        newest = max(supported_dataset_versions)
        raise DatasetError(f"{file}: made by Minari {version!r}, the installed one reads up to {newest}")
    if min(counts) < 1:
        raise DatasetError(f"{folder}: holds no episodes")
    return metadata


def _spaces(metadata: Mapping[str, Any], folder: Path) -> dict[str, spaces.Space]:
    from minari.serialization import deserialize_space

    found = {}
    for key in ("observation_space", "action_space"):
        if metadata.get(key) is not None:
            with understood(folder / METADATA, "Minari"):
                try:
                    found[key] = deserialize_space(metadata[key])
                except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, AssertionError) as error:
                    raise WrongContent(f"{key} is no space that Minari knows ({error})") from error
    return found


def _storage(folder: Path, metadata: dict[str, Any], make_env: Callable[[Settings], Any]) -> Any:
    """Return minari's reader. Where spaces are missing it would import what env_spec names: they are found here."""
    from minari.dataset._storages import get_minari_storage, get_storage_keys

    kind = metadata.get("data_format")
    if kind not in get_storage_keys():
        raise DatasetError(f"{folder}: data_format {kind!r}; Minari reads {', '.join(get_storage_keys())}")
    found = _spaces(metadata, folder)
    if len(found) < 2:
        env = make_env({key: metadata[key] for key in ("env_spec", "eval_env_spec") if metadata.get(key)})
        found = {"observation_space": env.observation_space, "action_space": env.action_space, **found}
    arguments = [found["observation_space"], found["action_space"]]
    with damage(folder, "Minari"):
        return get_minari_storage(kind)(folder, *arguments, jpeg_encoding=bool(metadata.get("jpeg_encoding", True)))


def _check_spaces(observed: spaces.Space, acted: spaces.Space, folder: Path) -> None:
    if not isinstance(acted, spaces.Box) or len(acted.shape) != 1 or acted.dtype.kind != "f":
        raise DatasetError(f"{folder}: actions of {acted}: continuous ones, a Box of one dim, are needed")
    if not observed.is_np_flattenable:
        raise DatasetError(f"{folder}: observations of {observed} cannot be flattened")


def _read_episode(storage: Any, number: int, folder: Path) -> Episode:
    with damage(folder, "Minari"):
        try:
            found = next(iter(storage.get_episodes([number])))
            looks = Observed.of(storage.observation_space).columns(found["observations"])
            rows = {
                "actions": np.asarray(found["actions"]),
                "rewards": np.asarray(found["rewards"]),
                "terminals": np.asarray(found["terminations"]),
            }
        except (*DAMAGE, TypeError, AttributeError, IndexError, AssertionError, StopIteration) as error:
            raise ValueError(f"episode {number}: {str(error) or type(error).__name__}") from error
    steps = len(rows["actions"]) if rows["actions"].ndim == 2 else 0
    arrays = {**looks, **rows}
    lengths = [np.size(array, 0) - (name in looks) for name, array in arrays.items() if np.ndim(array)]
    if steps < 1 or lengths != [steps] * len(arrays):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise DatasetError(f"{folder}: episode {number} has {shapes}; T actions and T + 1 observations are needed")
    shown = {name: array[:-1] for name, array in looks.items()}
    return {**shown, **rows, **{final_of(name): array[-1] for name, array in looks.items()}}
