"""What docs/results.md's tables are made of: tasks with data that are made here, and what learns from them.

A task is a dataset with the commands that make it; all methods on it have the same updates, batches, learning rate,
seeds and start states. `{chunks}` in a method's words is how many actions the task's networks predict at once.
"""

from __future__ import annotations

from dataclasses import dataclass

FIVE_SEEDS, THREE_SEEDS = "seeds=[0,1,2,3,4]", "seeds=[0,1,2]"
BOTH = "eval_temperature=0,1"
"""For methods that draw their actions: the last evaluation is made without noise and with N(0, I)."""
DENSE = "hidden_dims=[256,256]"
METHODS = {
    "bc": f"algo=bc {DENSE} {{chunks}}",
    "bc, squared error": f"algo=bc policy=mse {DENSE} {{chunks}}",
    "bc, mixture": f"algo=bc policy=gmm {DENSE} {{chunks}} {BOTH}",
    "flow_bc": f"algo=flow_bc {DENSE} {{chunks}} {BOTH}",
    "flow_bc, one step": f"algo=flow_bc actor=one_step {DENSE} {{chunks}} {BOTH}",
    "iql": f"algo=iql {DENSE}",
    "td3_bc": f"algo=td3_bc {DENSE}",
    "ddpm_bc": f"algo=ddpm_bc target_update_rate=0.01 {DENSE} {{chunks}} {BOTH}",
    "bc_rnn": f"algo=bc_rnn rnn_hidden_dim=128 {BOTH}",
    "bc_transformer": f"algo=bc_transformer dim_model=64 n_heads=4 n_layers=2 {BOTH}",
    "vq_bet": f"algo=vq_bet dim_model=64 n_heads=4 n_layers=2 {BOTH}",
    "flow_transformer": f"algo=flow_transformer dim_model=64 n_layers=2 horizon_length=8 n_action_steps=5 {BOTH}",
    "act": "algo=act chunk_size=10 n_action_steps=5 normalize_actions=zscore dim_model=64 n_heads=4"
    " dim_feedforward=128 n_encoder_layers=2 n_vae_encoder_layers=2",
    "diffusion_policy": "algo=diffusion_policy down_dims=[32,64] step_embed_dim=32 obs_horizon=2 horizon_length=8"
    f" n_action_steps=5 normalize=bounds normalize_actions=bounds sampler=ddim sampling_steps=10 {BOTH}",
}
"""The words of each method that learns from states; small networks, for one core."""
LIGHT = tuple(METHODS)[: tuple(METHODS).index("ddpm_bc") + 1]
"""Those of dense layers alone; the others cost several times as much on one core."""
CHUNKS = "action_chunking=true horizon_length=5"
EXPERT = "python benchmarks/linear_expert.py"
CUBE = "cube-single-scripted-singletask-task1-v0"
PLACES = "cube-single-scripted-oraclerep-v0"
PICK = "gym_hil/PandaPickCube-scripted-v0"
PIXELS = f"encoder=impala_small lr=5e-4 batch_size=32 {THREE_SEEDS} eval_episodes=20"
PIXEL_CHUNKS = f"{DENSE} {CHUNKS}"


@dataclass(frozen=True)
class Task:
    """One dataset and what is trained on it."""

    name: str
    env_name: str
    """FOLDER in it is where everything is made."""
    made: str
    """How the demonstrations were made, in words."""
    data: tuple[str, ...]
    """Commands that make them."""
    train: str
    """Words of every training."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Names in METHODS, or words of its own."""
    chunks: str = ""

    def words(self, method: str) -> str:
        """Return what a method's command has beside the words of all."""
        return " ".join(METHODS.get(method, method).format(chunks=self.chunks).split())


def states(steps: int) -> str:
    """Return the words of all trainings from states: equal budgets."""
    return f"training_steps={steps} batch_size=64 lr=1e-3 {FIVE_SEEDS} eval_episodes=20"


def generate(env_name: str, episodes: int, options: str = "") -> str:
    """Return the command that makes scripted demonstrations."""
    return " ".join(f"understudy data generate {env_name} --episodes {episodes} {options}".split())


CHEETAH = (
    f"{EXPERT} halfcheetah-policy-v2 experts/halfcheetah --iterations 160",
    generate("halfcheetah-policy-v2", 20, "--policy experts/halfcheetah --noise 0.1"),
)
TASKS = (
    Task("cube", CUBE, "OGBench's scripted oracle, npz", (generate(CUBE, 100),), states(1000), chunks=CHUNKS),
    Task(
        "pointmaze",
        "minari:pointmaze/umaze-scripted-v0",
        "scripted controller, noise 0.2, Minari",
        (generate("minari:pointmaze/umaze-scripted-v0", 100),),
        states(600),
        (*LIGHT, "flow_transformer", "diffusion_policy"),
    ),
    Task(
        "lift",
        "lift-scripted-low_dim",
        "scripted controller, noise 0.2, robomimic HDF5",
        (generate("lift-scripted-low_dim", 100),),
        states(1000),
        LIGHT,
        CHUNKS,
    ),
    Task(
        "goals",
        PLACES,
        "OGBench's oracle, five tasks; goals are the cube's place",
        (generate(PLACES, 200),),
        states(2000),
        (
            "bc",
            "flow_bc",
            f"algo=gc_bc {DENSE} {{chunks}}",
            f"algo=gc_ddpm_bc target_update_rate=0.01 {DENSE} {{chunks}} {BOTH}",
        ),
        CHUNKS,
    ),
    Task(
        "swimmer",
        "expert:Swimmer-v5",
        "linear ARS expert, noise 0.1, expert_buffer.pt",
        (
            f"{EXPERT} expert:Swimmer-v5 experts/swimmer --iterations 60 --directions 4 --top 4",
            generate("expert:Swimmer-v5", 20, "--policy experts/swimmer --noise 0.1"),
        ),
        states(600),
        LIGHT,
    ),
    Task(
        "halfcheetah",
        "halfcheetah-policy-v2",
        "linear ARS expert, noise 0.1, D4RL HDF5",
        CHEETAH,
        states(1000),
        LIGHT,
    ),
    Task(
        "mixed",
        "halfcheetah-mixed",
        "two linear ARS experts, one much better than the other, D4RL HDF5",
        (
            *CHEETAH,
            f"{EXPERT} halfcheetah-policy-v2 experts/halfcheetah-medium --iterations 30",
            generate(
                "halfcheetah-policy-v2",
                20,
                "--policy experts/halfcheetah-medium --noise 0.1 --name halfcheetah-medium-made",
            ),
            "python benchmarks/merge_d4rl.py mixed.hdf5 datasets/raw/halfcheetah-policy-v2.hdf5"
            " datasets/raw/halfcheetah-medium-made.hdf5",
            "understudy data import d4rl mixed.hdf5 --name halfcheetah-mixed --env_name halfcheetah-policy-v2",
        ),
        states(1000),
        ("bc", "flow_bc", f"algo=flow_bc actor=best_of_n {DENSE}", "iql", "td3_bc"),
    ),
    Task(
        "pick-lerobot",
        f"lerobot:FOLDER/datasets/raw/{PICK.replace('/', '__')}.lerobot",
        "gym-hil's scripted pick, LeRobot v3 (AV1), two cameras and the state",
        (generate(PICK, 60, "--noise 0.2 --rendering height=64 --rendering width=64 --format lerobot"),),
        PIXELS,
        (
            f"algo=bc training_steps=400 {PIXEL_CHUNKS}",
            f"algo=flow_bc training_steps=800 {PIXEL_CHUNKS} {BOTH}",
        ),
    ),
    Task(
        "pick-act",
        PICK,
        "gym-hil's scripted pick, the rendered HDF5",
        (generate(PICK, 60, "--noise 0.2 --rendering height=64 --rendering width=64"),),
        PIXELS,
        (
            "algo=act training_steps=1200 chunk_size=10 normalize_actions=zscore dim_model=64 n_heads=4"
            " dim_feedforward=128 n_encoder_layers=2 n_vae_encoder_layers=2",
        ),
    ),
    Task(
        "lift-image",
        "lift-scripted-image",
        "scripted controller, robomimic HDF5, two cameras and the state",
        (generate("lift-scripted-image", 60),),
        PIXELS,
        (f"algo=bc training_steps=800 {PIXEL_CHUNKS}",),
    ),
    Task(
        "visual-cube",
        "visual-cube-single-scripted-singletask-task1-v0",
        "OGBench's scripted oracle, npz, one camera",
        (generate("visual-cube-single-scripted-singletask-task1-v0", 80),),
        PIXELS,
        (f"algo=bc training_steps=1500 {PIXEL_CHUNKS}",),
    ),
    Task(
        "bridge",
        "bridge:reach",
        "a hand that goes to an object, raw BridgeData tree of 640 x 480 pictures",
        (
            "python tests/contract/bridge_tree.py bridge_raw --task reach --trajectories 100 --steps 20",
            "understudy data import bridge-raw bridge_raw --depth 2 --im-size 64",
        ),
        f"encoder=impala_small lr=5e-4 batch_size=32 {THREE_SEEDS} eval_episodes=0 {DENSE} training_steps=600"
        " validation_filter_key=valid normalize_actions=zscore",
        ("algo=bc policy=mse", "algo=gc_bc policy=mse"),
    ),
    Task(
        "classifier-lift",
        "lift-scripted-image",
        "scripted controller, robomimic HDF5, two cameras and the state",
        (generate("lift-scripted-image", 60),),
        PIXELS,
        ("algo=reward_classifier reward_threshold=-0.5 augmentation=drq training_steps=250 validation_fraction=0.2",),
    ),
    Task(
        "classifier-pick",
        PICK,
        "gym-hil's scripted pick, the rendered HDF5",
        (generate(PICK, 60, "--noise 0.2 --rendering height=64 --rendering width=64"),),
        PIXELS,
        ("algo=reward_classifier augmentation=drq training_steps=250 validation_fraction=0.2",),
    ),
)
