"""Read, write and fetch the folders of Minari datasets with minari's own storage classes."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from understudy.envs.files.hdf5 import unfailing
from understudy.envs.files.reading import DAMAGE, WrongContent, check_readable, damage, read_json, understood
from understudy.envs.sources.minari.observed import OBSERVATIONS, Observed, final_of
from understudy.envs.sources.task import Episode, Settings
from understudy.envs.store.column_kinds import Declared
from understudy.envs.store.episode import prepare_episode
from understudy.envs.store.form import Form
from understudy.envs.store.store import IMAGES
from understudy.errors import DatasetError, StorageError, UserError
from understudy.files import replaced_folder, restore_folder, storage_errors
from understudy.observations import STATE

if TYPE_CHECKING:
    from minari.data_collector import EpisodeBuffer

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


def write_episodes(
    path: Path,
    episodes: Iterable[Episode],
    name: str,
    settings: Settings,
    description: str,
    forms: Mapping[str, Any] | None = None,
) -> None:
    """Write a dataset's folder beside its place and put it there when it is whole; an older one there is replaced.

    `forms` are what was done to columns when they were imported (`provenance["forms"]`); that is undone.
    """
    from minari import __version__ as version
    from minari.dataset.minari_storage import MinariStorage
    from minari.serialization import deserialize_space

    feed = iter(episodes)
    first = next(feed, None)
    if first is None:
        raise DatasetError(f"{name}: no episodes, nothing to write")
    given = {key: deserialize_space(settings[key]) for key in ("observation_space", "action_space") if key in settings}
    undone = {column: Form.from_json(form) for column, form in (forms or {}).items()}
    observed = _observed(first, given.get("observation_space"))
    acted = given.get("action_space") or _box(np.asarray(first["actions"]))
    facts = {key: settings[key] for key in KEPT if key in settings and not key.endswith("_space")}
    facts |= {"description": description} if description else {}
    with _data_place(path) as temporary, storage_errors(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a dataset should say about its author
        storage = MinariStorage.new(temporary, observed.space, acted, data_format="hdf5", jpeg_encoding=False)
        storage.update_metadata({"dataset_id": name, "minari_version": version, **facts})
        with unfailing(temporary / "main_data.hdf5") as file:
            storage._file_path = file  # pyright: ignore[reportAttributeAccessIssue]
            storage.update_episodes(
                _buffer(*item, observed, acted, undone) for item in file.checked(_numbered(first, feed))
            )


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


@contextmanager
def _data_place(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `path/data` when the block ends well; other things in `path` stay.

    Where there is a `data` of something else, it is refused.
    """
    place = path / "data"
    if path.exists() and not path.is_dir():
        raise DatasetError(f"{path}: is a file; {DESCRIBE}")
    if restore_folder(place).exists() and not (place / METADATA).is_file():
        raise DatasetError(f"{place}: is there and no Minari dataset; choose another folder")
    with replaced_folder(place if path.exists() else path) as folder:
        inside = folder if path.exists() else folder / "data"
        inside.mkdir(exist_ok=True)
        yield inside


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
    lengths = [len(array) for array in rows.values()] + [len(array) - 1 for array in looks.values()]
    if steps < 1 or any(length != steps for length in lengths):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in {**looks, **rows}.items())
        raise DatasetError(f"{folder}: episode {number} has {shapes}; T actions and T + 1 observations are needed")
    shown = {name: array[:-1] for name, array in looks.items()}
    return {**shown, **rows, **{final_of(name): array[-1] for name, array in looks.items()}}


def _numbered(first: Episode, rest: Iterator[Episode]) -> Iterator[tuple[int, Episode]]:
    yield 0, first
    yield from enumerate(rest, 1)


def _observed(first: Episode, given: spaces.Space | None) -> Observed:
    """Return how observations are to be written: by the space that is given, where it has the episode's cameras."""
    cameras = {name.removeprefix(IMAGES): np.asarray(first[name]) for name in first if name.startswith(IMAGES)}
    if given is not None and set(Observed.of(given).cameras) == set(cameras):
        return Observed.of(given)
    seen = {STATE: _box(np.asarray(first[OBSERVATIONS]))} if OBSERVATIONS in first else {}
    if not cameras:
        return Observed.of(given or seen[STATE], cameras=False)
    return Observed.of(spaces.Dict({**seen, **{name: _box(rows) for name, rows in cameras.items()}}))


def _buffer(
    number: int, episode: Episode, observed: Observed, acted: spaces.Space, undone: Mapping[str, Form]
) -> EpisodeBuffer:
    from minari.data_collector import EpisodeBuffer

    prepare_episode(episode, number)
    looks, actions = {}, np.asarray(episode["actions"])
    for column, shape in observed.shapes.items():
        if column not in episode or final_of(column) not in episode:
            raise DatasetError(f"episode {number}: has no final observation ({final_of(column)}), which Minari needs")
        rows = np.concatenate([episode[column], np.asarray(episode[final_of(column)])[None]])
        rows = undone[column].undo(rows) if column in undone else rows
        if int(np.prod(rows.shape[1:])) != int(np.prod(shape)):
            raise DatasetError(f"episode {number}: {column} {rows.shape[1:]}, the environment's are {shape}")
        looks[column] = rows
    if actions.shape[1:] != acted.shape:
        raise DatasetError(f"episode {number}: actions {actions.shape[1:]}, the environment's are {acted.shape}")
    terminated = np.asarray(episode["terminals"]) != 0
    last = np.arange(len(terminated)) == len(terminated) - 1
    return EpisodeBuffer(
        id=number,
        observations=observed.rows(looks),
        actions=actions.astype(acted.dtype),  # pyright: ignore[reportArgumentType]
        rewards=np.asarray(episode["rewards"], np.float32),  # pyright: ignore[reportArgumentType]
        terminations=terminated,  # pyright: ignore[reportArgumentType]
        truncations=last & ~terminated,  # pyright: ignore[reportArgumentType]
    )


def _box(rows: np.ndarray) -> spaces.Box:
    if rows.dtype == np.uint8:
        return spaces.Box(0, 255, rows.shape[1:], np.uint8)
    return spaces.Box(-np.inf, np.inf, rows.shape[1:], np.float32)
