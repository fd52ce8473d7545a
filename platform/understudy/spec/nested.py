"""Keys with dots, as other tools' configurations nest them: one table of those that are ours by another name, one of
those whose values mean something else here, one of those that ask for nothing here.

They are both schemas of the PyTorch port of BridgeData's training (`model.*`, `optimizer.*`, `data.*`, `saliency.*`;
`agent_kwargs.*`, `encoder_kwargs.*`, `dataset_kwargs.*`). What is left out is named in a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from understudy.errors import SpecError

NETWORK = ("model", "agent_kwargs", "agent_kwargs.policy_kwargs", "agent_kwargs.network_kwargs", "policy_kwargs")
SALIENCY = ("saliency", "agent_kwargs.saliency", "agent_kwargs.policy_kwargs.saliency", "policy_kwargs.saliency")
DATA = ("data", "dataset_kwargs")
OPTIMISER = ("optimizer", "scheduler", "agent_kwargs")
PREFIXES: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
    (
        (*NETWORK, "agent_kwargs.score_network_kwargs"),
        {
            "hidden_dims": "hidden_dims",
            "dropout_rate": "dropout",
            "dropout": "dropout",
            "tanh_squash_distribution": "tanh_squash",
            "fixed_std": "fixed_std",
            "use_proprio": "use_proprio",
            "activation": "activation",
        },
    ),
    (
        OPTIMISER,
        {
            "lr": "lr",
            "learning_rate": "lr",
            "weight_decay": "weight_decay",
            "warmup_steps": "warmup_steps",
            "decay_steps": "decay_steps",
            "grad_clip": "grad_clip",
            "clip_grad_norm": "grad_clip",
            "max_grad_norm": "grad_clip",
        },
    ),
    (
        ("agent_kwargs",),
        {
            "beta_schedule": "beta_schedule",
            "diffusion_steps": "diffusion_steps",
            "repeat_last_step": "repeat_last_step",
            "target_update_rate": "ema_rate",
            "shared_goal_encoder": "shared_goal_encoder",
        },
    ),
    (SALIENCY, {"beta": "saliency_beta", "alpha": "saliency_alpha"}),
    (
        DATA,
        {
            "obs_horizon": "obs_horizon",
            "augment_next_obs_goal_differently": "augment_next_obs_goal_differently",
            "goal_relabeling_strategy": "goal_relabelling",
            "goal_relabeling_kwargs.reached_proportion": "reached_proportion",
            "augment_kwargs.augment_order": "augment_order",
            "augment_kwargs.random_resized_crop.scale": "random_resized_crop_scale",
            "augment_kwargs.random_resized_crop.ratio": "random_resized_crop_ratio",
            "saliency_alpha": "saliency_alpha",
            "discount": "discount",
            "use_proprio": "use_proprio",
        },
    ),
    (
        ("encoder_kwargs",),
        {
            "add_spatial_coordinates": "add_spatial_coordinates",
            "pooling_method": "pooling",
            "pooling": "pooling",
        },
    ),
    (("compile",), {"enabled": "compile"}),
    (("dataloader",), {"num_workers": "loader_workers"}),
    (("wandb",), {"project": "project", "group": "run_group"}),
)
NESTED = {f"{prefix}.{key}": ours for prefixes, keys in PREFIXES for prefix in prefixes for key, ours in keys.items()}
"""Other tools' nested keys for ours, with the same values."""

HEADS = ("model", "optimizer", "scheduler", "data", "saliency", "amp", "compile", "ddp", "wandb", "encoder_kwargs",
         "agent_kwargs", "policy_kwargs", "dataset_kwargs", "dataloader", "global")  # fmt: skip
"""What nested keys begin with, and what may be a dictionary in a YAML file of one's own."""
IGNORED = re.compile(
    r"wandb\..*|dataloader\..*|ddp\..*|global\..*|compile\..*|amp\..*|encoder_kwargs\.(act|norm|num_kp|pretrained)"
    r"|optimizer\.(type|name|betas|eps)|agent_kwargs\.(network_kwargs|score_network_kwargs|policy_kwargs)\..*"
    r"|agent_kwargs\.(optimizer|action_samples|language_conditioned)|(data|dataset_kwargs)\.(cache_size|shuffle\w*|"
    r"num_workers|prefetch\w*|seed|act_horizon|skip_unlabeled|load_language)|val_batch_size|debug|agent"
)
"""Keys that ask for nothing here."""
SCHEDULES = {"constant": "constant", "none": "constant", "warmup": "constant", "warmup_constant": "constant",
             "warmup_cosine": "cosine", "cosine": "cosine"}  # fmt: skip
ENCODERS = {f"resnet{depth}": f"resnetv1-{depth}-bridge" for depth in (18, 34, 50)}
SCALINGS = {"normal": "zscore", "zscore": "zscore", "bounds": "bounds", "none": "none"}
DTYPES = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "float16": "fp16"}
METHODS: dict[str, dict[str, Any]] = {"acfql_bc_distill": {}, "acfql": {"use_critic": True}}
"""Files of the published Q-chunking's `--agent`, and the keys of flow_bc that are that method."""


def translated(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return values with our keys for nested ones of other tools, and the keys that were left out.

    SpecError for a value that none of ours stands for. What is given by our own name goes first.
    """
    flat = _flattened(values)
    found: dict[str, Any] = {}
    left_out: list[str] = []
    switches = {key: value for key, value in flat.items() if key.endswith(".enabled")}
    for key, value in flat.items():
        rule = next((rule for pattern, rule in RULES if re.fullmatch(pattern, key)), None)
        if rule is not None:
            meant = rule(key, value, switches)
            found = {**meant, **found} if key.endswith(".enabled") else {**found, **meant}
        elif key in NESTED:
            found.setdefault(NESTED[key], value)
        elif IGNORED.fullmatch(key):
            left_out.append(key)
        else:
            found[key] = value
    own = {key: value for key, value in flat.items() if "." not in key and key in found}
    return {**found, **own}, left_out


def _flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with the dictionaries of HEADS taken apart."""
    flat: dict[str, Any] = {}

    def visit(key: str, value: Any) -> None:
        if isinstance(value, dict) and key.partition(".")[0] in HEADS:
            for name, item in cast("dict[str, Any]", value).items():
                visit(f"{key}.{name}", item)
        else:
            flat[key] = value

    for key, value in values.items():
        visit(key, value)
    return flat


def _one_of(choices: Mapping[str, str], ours: str) -> Callable[[str, Any, Mapping[str, Any]], dict[str, Any]]:
    """Return a rule for a key whose values have other names here."""

    def rule(key: str, value: Any, _: Mapping[str, Any]) -> dict[str, Any]:
        meant = choices.get(str(value).lower())
        if meant is None:
            raise SpecError(f"{key}={value}: no such choice; allowed: {', '.join(choices)}")
        return {ours: meant}

    return rule


def _weight(key: str, value: Any, switches: Mapping[str, Any]) -> dict[str, Any]:
    """Saliency: its settings count where it is enabled, or where nothing is said of that."""
    prefix, _, last = key.rpartition(".")
    if not switches.get(f"{prefix}.enabled", True):
        return {}
    return {"saliency_weight": 1.0} if last == "enabled" else {f"saliency_{last}": value}


def _precision(key: str, value: Any, switches: Mapping[str, Any]) -> dict[str, Any]:
    if not switches.get("amp.enabled", True):
        return {"precision": "float32"}
    if key.endswith(".enabled"):
        return {"precision": "bf16"}
    return _one_of(DTYPES, "precision")(key, value, switches)


def _chunk(key: str, value: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"horizon_length": value, "action_chunking": True} if value != 1 else {}


def _state_std(key: str, value: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"std": "state"} if value else {}


def _augment(key: str, value: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"augmentation": "bridge" if value else "none"}


def _fusion(key: str, value: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    return {"goal_fusion": "early" if value else "late"}


def _around(key: str, value: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    """Colours: [b] is 1 - b to 1 + b (of hues -b to b), [low, high] is what it says."""
    ours, given = key.rpartition(".")[2], [float(number) for number in (value if isinstance(value, list) else [value])]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    middle = 0.0 if ours == "random_hue" else 1.0
    return {ours: [middle - given[0], middle + given[0]] if len(given) == 1 else given}


def _method(key: str, value: Any, _: Mapping[str, Any]) -> dict[str, Any]:
    """Name the method that a file of the published Q-chunking is."""
    stem = str(value).rpartition("/")[2].removesuffix(".py")
    if stem not in METHODS:
        raise SpecError(f"{key}={value}: methods are named by algo=: {' and '.join(METHODS)} are algo=flow_bc")
    return {"algo": "flow_bc", **METHODS[stem]}


Rule = Callable[[str, Any, Mapping[str, Any]], dict[str, Any]]
RULES: tuple[tuple[str, Rule], ...] = (
    (rf"({'|'.join(map(re.escape, SALIENCY))})\.(enabled|weight|beta|alpha)", _weight),
    (r"amp\.(enabled|dtype)", _precision),
    (r"scheduler\.type", _one_of(SCHEDULES, "lr_schedule")),
    (r"encoder_kwargs\.arch", _one_of({**ENCODERS, **{name: name for name in ENCODERS.values()}}, "encoder")),
    (
        r"(data|dataset_kwargs)\.(normalization_type|normalize_type|normalization)",
        _one_of(SCALINGS, "normalize_actions"),
    ),
    (r"(data|dataset_kwargs)\.act_pred_horizon", _chunk),
    (r"(data|dataset_kwargs)\.augment", _augment),
    (r"(data|dataset_kwargs)\.augment_kwargs\.random_(brightness|contrast|saturation|hue)", _around),
    (rf"({'|'.join(map(re.escape, NETWORK))})\.state_dependent_std", _state_std),
    (r"agent_kwargs\.early_goal_concat", _fusion),
    (r"agent", _method),
)
"""Keys whose values mean something else here, and what they mean."""
