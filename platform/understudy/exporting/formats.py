"""The files that an exported policy is written to, and how each is run again to compare it with the policy.

A batch of any size goes in. Nothing in the files is a Python pickle; TorchScript's archive has parts named `.pkl`,
which libtorch reads by itself and which hold tensors and TorchScript's own classes alone. onnx and onnxruntime are
imported where ONNX is asked for, and nowhere else.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from understudy.errors import UserError
from understudy.exporting.function import ACTIONS, BATCH, PolicyFunction
from understudy.files import storage_errors

Run = Callable[[Sequence[torch.Tensor]], np.ndarray]
"""run(inputs) -> actions [B, H, A], by what was read from a file."""
OPSET = 20
"""ONNX's operators: the first set that has GELU."""
INSTALL = "pip install 'understudy-learn[deploy]'"


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    file: str
    write: Callable[[PolicyFunction, Path], dict[str, Any]]
    """write(function, path) -> what is to be known of the file."""
    read: Callable[[Path, Sequence[str]], Run]
    """read(path, names of the inputs)."""
    needs: tuple[str, ...] = ()
    """Modules that writing and reading need beside torch."""

    def check(self) -> None:
        """Raise UserError where a module that the format needs is not installed."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"this format needs {', '.join(missing)}: {INSTALL}")


@contextmanager
def _quiet() -> Generator[None]:
    """Keep back what torch's exporters say of packages that they could use, and of their own deprecations."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def exported_program(function: PolicyFunction) -> torch.export.ExportedProgram:
    """Return torch's graph of a policy; the batch is free, from 1 on."""
    batch = torch.export.Dim(BATCH, min=1)
    samples = tuple(port.sample(3, 0) for port in function.inputs)
    with torch.no_grad(), _quiet():
        return torch.export.export(function.eval(), samples, dynamic_shapes=(tuple({0: batch} for _ in samples),))


def _write_exported(function: PolicyFunction, path: Path) -> dict[str, Any]:
    program = exported_program(function)
    cast("Any", program)._example_inputs = None  # the one thing that torch would pickle
    written = io.BytesIO()  # torch ends the process where it cannot write a file that it has opened itself
    with _quiet():
        torch.export.save(program, written)
    _put(written, path)
    return {"loader": "torch.export.load(path).module()"}


def _put(written: io.BytesIO, path: Path) -> None:
    with storage_errors(path):
        path.write_bytes(written.getbuffer())


def _read_exported(path: Path, names: Sequence[str]) -> Run:
    with _quiet():
        module = torch.export.load(path).module()
    return lambda inputs: module(*inputs).detach().numpy()


def _write_torchscript(function: PolicyFunction, path: Path) -> dict[str, Any]:
    samples = tuple(port.sample(3, 0) for port in function.inputs)
    with torch.no_grad(), _quiet():
        traced = cast("Any", torch.jit).trace(function.eval(), samples, check_trace=False)
        frozen = cast("Any", torch.jit).freeze(traced)
    written = io.BytesIO()
    cast("Any", torch.jit).save(frozen, written)
    _put(written, path)
    return {"loader": "torch.jit.load(path)"}


def _read_torchscript(path: Path, names: Sequence[str]) -> Run:
    with _quiet():
        module = cast("Any", torch.jit).load(str(path))
    return lambda inputs: module(*inputs).detach().numpy()


def _write_onnx(function: PolicyFunction, path: Path) -> dict[str, Any]:
    program = exported_program(function)
    names = [port.name for port in function.inputs]
    with _quiet():
        graph = cast("Any", torch.onnx).export(
            program,
            input_names=names,
            output_names=[ACTIONS],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    with storage_errors(path):
        graph.save(path, external_data=False)
    return {"opset": OPSET, "loader": "onnxruntime.InferenceSession(path)"}


def _read_onnx(path: Path, names: Sequence[str]) -> Run:
    session = onnx_session(path)
    return lambda inputs: session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))[0]


def onnx_session(path: Path, threads: int = 1) -> Any:
    """Return onnxruntime's session of a file, on the CPU, with this many threads."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


FORMATS: Mapping[str, Format] = {
    "exported": Format("policy.pt2", _write_exported, _read_exported),
    "torchscript": Format("policy.ts", _write_torchscript, _read_torchscript),
    "onnx": Format("policy.onnx", _write_onnx, _read_onnx, ("onnx", "onnxscript", "onnxruntime")),
}
