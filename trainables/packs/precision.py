"""How a loss is computed, whatever it is: in which precision, and compiled or not. Knows nothing of packs."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from understudy.errors import SpecError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Raise SpecError, in one line, unless `device` multiplies in this precision."""
    if precision == "float32":
        return
    if precision == "tf32":
        if device.type != "cuda":
            raise SpecError(f"precision=tf32 is for device=cuda, not {device.type}; float32 does")
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns and goes on in float32; the outcome is looked at instead
            with autocast(precision, device):
                square = torch.ones(8, 8, device=device, requires_grad=True)
                product = square @ square
            torch.autograd.backward(product.sum())
        problem = "" if product.dtype == DTYPES[precision] else f"torch {torch.__version__} computes in {product.dtype}"
    except (RuntimeError, TypeError) as error:
        problem = (str(error).splitlines() or [type(error).__name__])[0]
    if problem:
        raise SpecError(f"precision={precision} does not work on device={device}: {problem}; float32 does")


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which torch chooses each operation's dtype; that of float32 does nothing."""
    return torch.autocast(device.type, DTYPES[precision]) if precision in DTYPES else nullcontext()


@contextmanager
def tf32(precision: str) -> Generator[None]:
    """Let CUDA round the factors of float32 products to 10 bits in the block, where `precision` says so.

    Forward and backward both belong in it. Outside torch's defaults hold: convolutions may round, products not.
    """
    if precision != "tf32":
        yield
        return
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` as torch.compile makes it at its first call, which belongs inside `compile_errors`."""
    # By default all packs of a process share eight compiled forms of an algorithm's loss, then torch gives up.
    compiler: Any = torch  # the types of its `compile` are known in part only
    options: dict[str, Any] = {"isolate_recompiles": True}
    known = inspect.signature(compiler.compile).parameters
    return compiler.compile(function, **{name: value for name, value in options.items() if name in known})


def compile_errors(on: bool) -> AbstractContextManager[Any]:
    """Return the context that makes a SpecError, in one line, of what torch.compile cannot do."""
    return _compile_errors() if on else nullcontext()


@contextmanager
def _compile_errors() -> Generator[None]:
    from torch._dynamo.exc import TorchDynamoException  # seconds of import that only compile=true needs
    from torch._inductor.exc import InductorError

    try:
        yield
    except (TorchDynamoException, InductorError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise SpecError(f"compile=true: torch.compile cannot compile this loss: {reason}") from error
