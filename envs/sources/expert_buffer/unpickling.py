"""Read files of `torch.save` without running what they hold: tensors, plain containers and TensorDicts only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from understudy.checkpoints import check_unpacked
from understudy.envs.files.reading import check_claim, check_readable, damage, kind_of
from understudy.errors import CheckpointError, DatasetError

TENSORDICT_CLASSES = ("tensordict._td.TensorDict", "tensordict.tensordict.TensorDict")
TENSORDICT_MAKER = "tensordict._reductions._make_td"


class SavedTensorDict:
    """Stand in for tensordict's class while unpickling: only the state is kept, and no code of tensordict runs."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


def make_saved(kind: Any, state: Any) -> SavedTensorDict:
    """Stand in for the function that a TensorDict is pickled with."""
    made = SavedTensorDict()
    made.state = state
    return made


def load_tensors(file: Path) -> Any:
    """Return what `torch.save` wrote, TensorDicts as nested dicts; anything else in it is a DatasetError.

    A TensorDict must be flat: its batch is one dim of rows.
    """
    import torch

    check_readable(file, "torch.save")
    try:
        check_unpacked(file)
    except CheckpointError as error:
        raise DatasetError(str(error)) from None
    stand_ins = [(SavedTensorDict, path) for path in TENSORDICT_CLASSES]
    try:
        with torch.serialization.safe_globals([*stand_ins, (make_saved, TENSORDICT_MAKER)]):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise whatever they happen to mean
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign is not None:
            raise DatasetError(
                f"{file}: holds {foreign[1]}, and of files that may come from anywhere only tensors are read"
            ) from error
        said = (str(error).splitlines() or [""])[0][:160] or type(error).__name__
        other = kind_of(file)
        cause = f": it is {other}" if other not in ("", "npz") else f", truncated or damaged ({said})"  # a zip too
        raise DatasetError(f"{file}: not a readable file of torch.save{cause}") from error
    opened = _opened(found, file)
    with damage(file, "torch.save"):
        check_claim(_claimed(opened), file)
    return opened


def _claimed(value: Any) -> int:
    """Return the bytes that all tensors of nested dicts say that they have: one may repeat a few bytes for ever."""
    import torch

    if isinstance(value, dict):
        return sum(_claimed(item) for item in value.values())
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


def _opened(value: Any, file: Path) -> Any:
    """Return dicts in place of saved TensorDicts, at every depth."""
    if isinstance(value, SavedTensorDict):
        state = value.state if isinstance(getattr(value, "state", None), dict) else {}
        batch = tuple(state.get("_batch_size", ()))
        if len(batch) > 1:
            raise DatasetError(f"{file}: a TensorDict of batch size {list(batch)}, flat rows [N] are needed")
        value = state.get("_tensordict")
        if not isinstance(value, dict):
            raise DatasetError(
                f"{file}: a TensorDict of a layout that is not known here; save it with a newer tensordict"
            )
    return {key: _opened(item, file) for key, item in value.items()} if isinstance(value, dict) else value
