"""``params.yaml`` as frozen pydantic models, one per section.  Unknown keys are errors.

Every tunable number of the pipeline stands in ``params.yaml``; DVC sees each of them.  The text of
each field is what ``zprl config explain`` prints.  Source tags: *paper* (arXiv 2605.19919),
*official code* (its authors' repository),
*ours* (measured or decided here).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)

from zprl import safe_names, strict_yaml
from zprl.errors import ConfigError

PARAMS_FILE = "params.yaml"
MAX_TOLD = 10
"""Mistakes of one file that are listed; the others are counted."""


MAX_WIDTH, MAX_LAYERS = 2**16, 16
"""Of a network: more was never useful here, and a stranger's bundle states them before anything
else is known of it."""
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Steps = Annotated[int, Field(ge=1, le=10_000)]


def _widths(layers: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse a layer that is none, or too wide."""
    if not all(1 <= width <= MAX_WIDTH for width in layers):
        raise ValueError(f"layers are 1 to {MAX_WIDTH} wide")
    return layers


Layers = Annotated[tuple[int, ...], Field(max_length=MAX_LAYERS), AfterValidator(_widths)]


class Section(BaseModel):
    """A section of ``params.yaml``: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(Section):
    """What holds for the whole pipeline run."""

    seed: int = Field(0, ge=0, description="Training seed of every stage.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where torch and the simulator run.")
    threads: int = Field(
        1,
        ge=1,
        description="Torch threads; more than one is slower for networks of this size (ours).",
    )


class Randomise(Section):
    """Domain randomisation of the worlds with Isaac's Franka: every episode on a robot and with things that are slightly others.

    A share of 0.1 means: the own value times a factor that is drawn evenly between 0.9 and 1.1.
    """

    mass: float = Field(
        0.0, ge=0, lt=1, description="Share by which the mass of things differs (inertia with it)."
    )
    friction: float = Field(
        0.0, ge=0, lt=1, description="Share by which the friction of things differs."
    )
    gains: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share by which stiffness and damping of the arm's joints differ, each.",
    )
    latency_steps: int = Field(
        0,
        ge=0,
        le=50,
        description="Actions arrive up to so many environment steps late, equally for an episode.",
    )
    observation_noise: float = Field(
        0.0,
        ge=0,
        description="Standard deviation of Gaussian noise on every observed number but the gripper's command [m, or as it is].",
    )
    cube_size: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Share by which the edges of cubes differ between environments.",
    )


Engine = Literal["ovphysx", "newton", "isaacsim"]
"""Physics engines under Isaac's worlds."""
Assets = Literal["authored", "nvidia"]
"""Whose USD files they are made of."""


class Task(Section):
    """The world in which policies act and are judged."""

    name: str = Field(
        "isaac/lift-cube", description="Registered task; `zprl env list` prints them."
    )
    episode_steps: int = Field(
        200, ge=10, description="Environment steps after which an episode is truncated."
    )
    cameras: tuple[str, ...] = Field(
        (),
        description="Cameras whose pictures are observed, as `<camera>_image`: front, side, wrist in Isaac's worlds.",
    )
    image_size: int = Field(
        84, ge=16, le=1024, description="Height and width of these pictures (paper: 84)."
    )
    workers: int = Field(
        0,
        ge=0,
        description="Processes that step MuJoCo's worlds side by side, with equal results; 0: none but the stage's own.",
    )
    physics: Engine = Field(
        "ovphysx",
        description="Engine under Isaac's worlds: PhysX; Newton (MuJoCo-Warp), slow on a CPU; or Isaac Sim's PhysX, with RTX cameras.",
    )
    assets: Assets = Field(
        "authored",
        description="USD files of Isaac's worlds: those authored here, or NVIDIA's below the folder that ISAACSIM_ASSET_ROOT names.",
    )
    randomise: Randomise = Field(
        Randomise(),
        description="Domain randomisation of Isaac's worlds with the Franka; off by default.",
    )
    file: str | None = Field(
        None,
        description="File that says what an Isaac Lab task's terms mean here; for `isaaclab/<Task-Id>` alone.",
    )


RotationForm = Literal[
    "quaternion_xyzw", "quaternion_wxyz", "rotation_vector", "euler_xyz", "matrix", "rotation_6d"
]
"""How numbers say a rotation; see :mod:`zprl.data.rotations`."""
ROTATION_WIDTHS: dict[str, int] = {
    "quaternion_xyzw": 4,
    "quaternion_wxyz": 4,
    "rotation_vector": 3,
    "euler_xyz": 3,
    "matrix": 9,
    "rotation_6d": 6,
}


class Part(Section):
    """Some columns of what is recorded: ``scale`` times them plus ``offset``, and where they are a rotation, its form."""

    columns: tuple[NonNegativeInt, ...] | None = Field(
        None, description="Columns taken, in order; null for all."
    )
    scale: float = Field(
        1.0,
        allow_inf_nan=False,
        description="Factor, e.g. 0.001 for millimetres; of rotations only of angles.",
    )
    offset: float = Field(0.0, allow_inf_nan=False, description="Added after the factor.")
    rotation: RotationForm | None = Field(
        None,
        description="Recorded form of a rotation; euler_xyz turns about fixed axes; null: none.",
    )
    to: RotationForm | None = Field(
        None,
        description="Form it is given; null: quaternion_xyzw for observations, rotation_6d for actions.",
    )
    resample: Literal["linear", "nearest"] | None = Field(
        None,
        description="How resample_hz treats it; null: rotations by slerp, pictures, gripper commands and single actions nearest.",
    )

    @model_validator(mode="after")
    def _is_one_thing(self) -> Part:
        if self.columns == ():
            raise ValueError("columns is empty; null takes all")
        if self.to is not None and self.rotation is None:
            raise ValueError("to needs rotation, the form that is recorded")
        if self.rotation is None:
            return self
        width = ROTATION_WIDTHS[self.rotation]
        if self.columns is not None and len(self.columns) != width:
            raise ValueError(f"{self.rotation} has {width} columns, not {len(self.columns)}")
        if (self.scale, self.offset) != (1.0, 0.0) and self.rotation not in (
            "rotation_vector",
            "euler_xyz",
        ):
            raise ValueError(f"{self.rotation} cannot be scaled")
        if self.resample == "linear":
            raise ValueError("rotations are resampled by slerp (null) or nearest")
        return self


class ObservationPart(Part):
    """Where an observation comes from."""

    key: str = Field(description="Recorded key.")


class ActionPart(Part):
    """The next numbers of an action."""

    delta: bool = Field(
        False,
        description="Recorded as a change of the pose observed in the same frame; becomes an absolute target.",
    )
    of: str | None = Field(
        None, description="Observation key (as converted) that a delta is a change of."
    )

    @model_validator(mode="after")
    def _delta_of_something(self) -> ActionPart:
        if self.delta != (self.of is not None):
            raise ValueError("delta and of belong together: a delta is a change of an observation")
        return self


class Conventions(Section):
    """How recordings differ from what is wanted here; converted once, when they are read, and said in the data report."""

    observations: dict[str, ObservationPart] | None = Field(
        None, description="Per key of obs_keys; a key not listed stays as it is."
    )
    actions: tuple[ActionPart, ...] | None = Field(
        None, description="Parts of the action, in order; null: as recorded."
    )
    resample_hz: float | None = Field(
        None, gt=0, le=1000, description="Frames per second wanted; null: as recorded."
    )
    action_shift: int = Field(
        0,
        description="Frames by which recorded actions come late (positive) or early after what was observed.",
    )

    @model_validator(mode="after")
    def _knows_actions(self) -> Conventions:
        if self.actions == ():
            raise ValueError("actions is empty; null leaves them as recorded")
        if self.resample_hz is not None and self.actions is None:
            raise ValueError(
                "resample_hz needs actions: whether a part is a position, a rotation or a gripper decides how it is resampled"
            )
        return self


Grade = Literal["better", "okay", "worse", "unknown"]


class Recipe(Section):
    """Which recorded episodes are used, and what is corrected in them; the recordings stay as they are.

    Names are ``<source>/<episode>`` and may be patterns such as ``monday/*``; where several fit,
    the last one holds.  In this order: choose, relabel, choose by quality, cut, merge.
    """

    only: tuple[str, ...] | None = Field(None, description="Episodes used; null for all.")
    leave_out: tuple[str, ...] = Field((), description="Episodes left out.")
    success: dict[str, bool] = Field(
        {},
        description="New labels; the reward becomes 1 in the last frame of a success and 0 elsewhere.",
    )
    quality: dict[str, Grade] = Field({}, description="New grades.")
    keep_quality: tuple[Grade, ...] | None = Field(None, description="Grades used; null for all.")
    cut: dict[str, tuple[NonNegativeInt, NonNegativeInt]] = Field(
        {}, description="Frames kept, [start, stop); labels stay."
    )
    merge: tuple[tuple[str, ...], ...] = Field(
        (),
        description="Episodes of one source (no patterns) joined in this order; the last one's label holds.",
    )
    weights: dict[Grade, float] = Field(
        {},
        description="How often windows of a grade are drawn in training; 1 for grades not named.",
    )

    @model_validator(mode="after")
    def _can_be_done(self) -> Recipe:
        for name, (start, stop) in self.cut.items():
            if start >= stop:
                raise ValueError(f"cut of '{name}' keeps no frame: [{start}, {stop})")
        for grade, weight in self.weights.items():
            if not 0.001 <= weight <= 1000:  # NaN too
                raise ValueError(
                    f"weight {weight} of '{grade}' is not within 0.001 and 1000; keep_quality leaves grades out"
                )
        merged = [name for group in self.merge for name in group]
        if any(len(group) < 2 for group in self.merge) or len(set(merged)) < len(merged):
            raise ValueError("merge joins groups of two or more episodes, and no episode twice")
        return self


class Ingest(Section):
    """From recorded demonstrations to validated episodes."""

    reader: str = Field(
        "robomimic",
        description="Registered reader of the demonstrations; auto: each by its own format.",
    )
    obs_keys: tuple[str, ...] = Field(
        ("robot0_eef_pos", "robot0_gripper_qpos", "robot0_gripper_command", "object"),
        description="Observation keys the policy sees, in order.",
    )
    max_bad_fraction: float = Field(
        0.05, ge=0, le=1, description="The stage fails when more episodes than this share are bad."
    )
    max_episodes: int | None = Field(
        None, ge=1, description="Use only the first so many good episodes; null for all."
    )
    exclude_failures: bool = Field(
        False, description="Leave out episodes that did not end in success."
    )
    actions: str = Field(
        "actions",
        description="Recorded dataset of actions (HDF5 readers), e.g. robomimic's actions_abs.",
    )
    conventions: Conventions | None = Field(
        None,
        description="How recordings differ from what is wanted here: observations (key, columns, scale, offset, rotation, to), "
        "actions (the same, delta, of), resample_hz, action_shift; null: they do not.",
    )
    recipe: Recipe | None = Field(
        None,
        description="Which episodes are used, and what is corrected in them; null: all, as they are.",
    )

    @model_validator(mode="after")
    def _converts_what_is_seen(self) -> Ingest:
        if self.conventions is None:
            return self
        used = {*self.obs_keys, *(part.of for part in self.conventions.actions or ())}
        unused = [key for key in self.conventions.observations or {} if key not in used]
        if unused:
            raise ValueError(
                f"conventions.observations has '{unused[0]}', which neither obs_keys nor a delta names"
            )
        return self


class Policy(Section):
    """The frozen base: observation encoder and chunked flow-matching generator."""

    obs_steps: Steps = Field(1, description="Observation frames seen (paper: 1 in simulation).")
    horizon: Steps = Field(8, description="Length of the predicted action sequence.")
    chunk_steps: Steps = Field(
        8, description="Executed actions per prediction; one chunk is one RL step."
    )
    embedding_dim: Width = Field(128, description="Width of the observation embedding e.")
    encoder_hidden: Layers = Field((256,), description="Hidden layers of the state encoder (ours).")
    velocity_net: Literal["mlp", "unet"] = Field(
        "mlp", description="mlp: small and fast on a CPU; unet: the paper's 1-D UNet."
    )
    mlp_hidden: Layers = Field(
        (256, 256, 256), description="Hidden layers of the MLP velocity network (ours)."
    )
    unet_channels: Layers = Field(
        (128, 256, 512), description="Channels of the UNet levels (official code)."
    )
    unet_kernel: int = Field(
        5, ge=1, le=99, description="Kernel of the UNet convolutions (official code)."
    )
    unet_groups: Width = Field(
        8, description="Groups of the UNet's group normalisation (official code)."
    )
    time_embedding_dim: int = Field(
        64, ge=2, le=4096, multiple_of=2, description="Width of the sinusoidal flow-time embedding."
    )
    flow_steps: int = Field(
        5,
        ge=1,
        le=1000,
        description="Euler steps of the sampler (official code: 2 robomimic, 5 elsewhere).",
    )
    time_grid: Literal["uniform", "diffusers"] = Field(
        "uniform",
        description="uniform: 1, .8, ... 0; diffusers: spaced from 1 to .01, then 0, as the released code's scheduler has it.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Policy:
        if self.obs_steps - 1 + self.chunk_steps > self.horizon:
            raise ValueError(
                f"chunk_steps ({self.chunk_steps}) + obs_steps - 1 must not exceed horizon ({self.horizon})"
            )
        return self


class VibConfig(Section):
    """The variational information bottleneck on the embedding."""

    enabled: bool = Field(
        True,
        description="False trains the bare base policy; its weights are bit-identical either way.",
    )
    latent_dim: Width = Field(
        8,
        description="Width of the latent z (official code: 16 robomimic, 8 Adroit and MetaWorld).",
    )
    hidden: Layers = Field(
        (256, 256, 256), description="Hidden layers of encoder and decoder (official code)."
    )
    kl_weight: float = Field(
        2e-4,
        ge=0,
        description="beta; weighs the KL averaged over latent dimensions (official code).",
    )
    reconstruction_weight: float = Field(
        0.01, ge=0, description="rho; weighs the reconstruction of the embedding (official code)."
    )


class Images(Section):
    """The encoder of pictures, one per camera; without effect where the demos have none.  The embedding's width follows from it."""

    crop: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of height and width that is seen: anywhere in training, else the middle.",
    )
    features: int = Field(
        256, ge=1, le=8192, description="Numbers that a frame becomes (official code)."
    )
    channels: tuple[int, ...] = Field(
        (64, 128, 256, 512),
        min_length=1,
        max_length=6,
        description="Of the ResNet's stages (ResNet-18).",
    )
    spatial_blocks: int = Field(
        8, ge=1, le=64, description="Learned spatial weightings per channel (official code)."
    )


class Pretrain(Section):
    """Offline training of base policy and bottleneck."""

    steps: int = Field(4000, ge=1, description="Gradient steps.")
    batch_size: int = Field(256, ge=1, description="Chunks per step (official code: 256).")
    learning_rate: float = Field(
        1e-3, gt=0, description="AdamW (official code: 1e-4 for the UNet; 1e-3 for our small nets)."
    )
    betas: tuple[float, float] = Field((0.95, 0.999), description="AdamW (official code).")
    weight_decay: float = Field(1e-6, ge=0, description="AdamW (official code).")
    warmup_steps: int = Field(
        100, ge=0, description="Linear warm-up before the cosine schedule (official code)."
    )
    ema_power: float = Field(
        0.8, gt=0, description="EMA decay is 1 - (1 + step)^-power (official code)."
    )
    ema_max: float = Field(0.9999, ge=0, lt=1, description="Cap of the EMA decay (official code).")
    validation_fraction: float = Field(
        0.05, ge=0, lt=1, description="Share of episodes kept for the validation loss."
    )
    checkpoint_every: int = Field(500, ge=1, description="Steps between resume points.")
    log_every: int = Field(50, ge=1, description="Steps between logged metrics.")


class Evaluate(Section):
    """How every policy is judged: the same seeds for all of them."""

    episodes: int = Field(200, ge=1, description="Episodes per policy, one per environment.")
    num_envs: int | None = Field(
        None,
        ge=1,
        description="Episodes side by side, in rounds until all are played; null for all at once.",
    )
    seed: int = Field(
        100_000,
        ge=0,
        description="Seed of start states and flow noise, apart from all training seeds.",
    )
    film_episodes: int = Field(3, ge=0, description="Episodes shown as film strips.")


class Transfer(Section):
    """How the steered policy is judged on the other physics engine (sim-to-sim)."""

    episodes: int = Field(
        64,
        ge=1,
        description="Episodes on each engine, with evaluate.seed; Newton takes some minutes on a CPU.",
    )


class Budget(Section):
    """How much a method may try in simulation; every method has one."""

    num_envs: int = Field(64, ge=1, description="Parallel environments (official code: 20).")
    segments: int = Field(
        7,
        ge=1,
        description="Training segments; each starts from a fresh simulator and ends in a resume point.",
    )
    chunk_steps_per_segment: int = Field(55, ge=1, description="Vector chunk steps per segment.")
    judge_episodes: int = Field(
        0,
        ge=0,
        description="Episodes by which the policy is judged after each segment; 0: only at the end.",
    )


class Rl(Budget):
    """Reinforcement learning of a bounded residual where the interface enters the frozen policy."""

    algorithm: Literal["sac", "noise_aliasing"] = Field(
        "sac",
        description="sac; noise_aliasing: DSRL's, for interface noise; ppo changes the generator and has other keys (DPPO, ReinFlow).",
    )
    interface: str = Field(
        "latent",
        description="latent (ZPRL), action, noise or embedding; see `zprl.rl.steering_spaces`.",
    )
    residual_scale: float | Literal["auto"] = Field(
        "auto",
        description="lambda; auto proposes it so that RMS(lambda dz) is about residual_ratio x RMS(anchor) on the demos.",
    )
    residual_ratio: float = Field(
        0.1, gt=0, description="Wanted RMS(lambda dz) / RMS(z) for `auto` (official README: 0.1)."
    )
    residual_units: Literal["absolute", "anchor_rms", "posterior_std"] = Field(
        "absolute",
        description="Unit of the residual scale per dimension: 1, the anchor's spread, or the posterior's spread.",
    )
    sample_latent: bool = Field(
        True,
        description="Collect with z drawn from the posterior (official code); evaluation uses its mean.",
    )
    noise_scale: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Standard deviation of the generator's noise, collecting and ever after (ours; 1: as it was trained).",
    )
    warmup_chunks: int = Field(
        2000,
        ge=0,
        description="Chunk transitions with zero residual before learning (official code).",
    )
    warmup_noise: float = Field(
        0.0,
        ge=0,
        description="Standard deviation of the residual during warm-up (ours; official code: 0).",
    )
    updates_per_chunk: float = Field(
        1.0, gt=0, description="UTD: critic updates per chunk transition (official code: 1)."
    )
    batch_size: int = Field(256, ge=1, description="Transitions per update (official code).")
    step_discount: float = Field(
        0.99, gt=0, le=1, description="gamma per environment step; the chunk discount is derived."
    )
    chunk_penalty: float = Field(
        0.0,
        ge=0,
        description="Subtracted from every chunk's reward; with 1 it is -1 until success (Policy Decorator, DSRL); not for bounded Q.",
    )
    critics: int = Field(
        2, ge=1, le=100, description="Critics in the ensemble (official code: 2; later 10)."
    )
    target_subset: int = Field(
        2, ge=1, description="Random critics whose minimum is the target (official code: 2)."
    )
    hidden: Layers = Field(
        (256, 256, 256), description="Hidden layers of actor and critics (official code)."
    )
    activation: Literal["gelu", "relu", "tanh"] = Field(
        "gelu", description="Hidden activation (official code: gelu)."
    )
    critic_layer_norm: bool = Field(
        False, description="LayerNorm in the critics' hidden layers (peers; official code: off)."
    )
    bounded_q: bool = Field(
        True, description="Squash Q to [0, 1], which fits the sparse reward (official code)."
    )
    entropy_in_target: bool = Field(
        False, description="Entropy bonus in the Bellman target (official code: off)."
    )
    actor_uses_min: bool = Field(
        False,
        description="Actor climbs the ensemble minimum instead of its mean (official code: mean).",
    )
    target_entropy_per_dim: float = Field(
        -0.5, description="Target entropy per residual dimension (official code: -1/2)."
    )
    initial_alpha: float = Field(0.01, gt=0, description="Initial entropy weight (official code).")
    log_std_min: float = Field(
        -10.0, description="Lower bound of the actor's log standard deviation (official code)."
    )
    log_std_max: float = Field(
        2.0, description="Upper bound; the actor starts at the middle of the two (official code)."
    )
    actor_learning_rate: float = Field(1e-4, gt=0, description="Adam (official code).")
    critic_learning_rate: float = Field(3e-4, gt=0, description="Adam (official code).")
    alpha_learning_rate: float = Field(3e-4, gt=0, description="Adam (official code).")
    actor_period: int = Field(
        2, ge=1, description="Critic updates per actor update (official code)."
    )
    target_period: int = Field(
        2, ge=1, description="Critic updates per target update (official code)."
    )
    tau: float = Field(0.005, gt=0, le=1, description="Target network step (official code).")
    grad_clip: float = Field(50.0, gt=0, description="Gradient norm limit (official code).")
    buffer_size: int = Field(1_000_000, ge=1, description="Chunk transitions kept (official code).")
    bootstrap_truncated: bool = Field(
        False, description="Bootstrap through time-outs (official code: no for robomimic)."
    )
    demo_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each batch drawn from the demos (peers; official code: 0).",
    )
    demo_residual: Literal["zero", "fitted"] = Field(
        "zero",
        description="Residual of the demos in the batches: none; fitted: the one whose chunk comes nearest to what was shown (ours). On "
        "actions it is always that.",
    )
    value_warmup_updates: int = Field(
        0,
        ge=0,
        description="Critic-only updates before the actor learns (peers; official code: 0).",
    )
    trust_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of mean(dz^2) in the actor loss: a trust region (peers; official: 0).",
    )
    progressive_chunks: int = Field(
        0,
        ge=0,
        description="Chunk transitions over which residuals are phased in (Policy Decorator).",
    )
    best_of: int = Field(
        1,
        ge=1,
        le=10_000,
        description="Residuals per decision of which the critics choose one (DICE-RL: 16).",
    )

    @model_validator(mode="after")
    def _fits(self) -> Rl:
        if self.target_subset > self.critics:
            raise ValueError(
                f"target_subset ({self.target_subset}) must not exceed critics ({self.critics})"
            )
        if self.log_std_min >= self.log_std_max:
            raise ValueError("log_std_min must be below log_std_max")
        if self.chunk_penalty and self.bounded_q:
            raise ValueError("chunk_penalty makes values negative, which bounded_q cannot express")
        if self.algorithm == "noise_aliasing" and self.interface != "noise":
            raise ValueError("algorithm noise_aliasing is for interface noise")
        if self.noise_scale != 1 and self.interface == "noise":
            raise ValueError("noise_scale belongs to interfaces that leave the noise to chance")
        return self

    @model_serializer(mode="wrap")
    def _as_ever(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``demo_residual`` where it is zero, as steering bundles have always been written."""
        found = handler(self)
        if self.demo_residual == "zero":
            found.pop("demo_residual", None)
        return found


class PolicyGradient(Budget):
    """Policy gradients through the flow's sampling chain; see `zprl.rl.policy_gradient`."""

    algorithm: Literal["ppo"]
    noise: Literal["fixed", "learned"] = Field(
        "fixed", description="Of the chain: fixed (DPPO) or a network's (ReinFlow)."
    )
    min_std: float = Field(
        0.1,
        gt=0,
        description="Standard deviation of the chain's noise, or the least (DPPO and ReinFlow: 0.1).",
    )
    max_std: float = Field(
        0.24, gt=0, description="The largest that the network may ask for (ReinFlow, hopper: 0.24)."
    )
    rollout_steps: int = Field(40, ge=1, description="Vector chunk steps between two improvements.")
    step_discount: float = Field(
        0.99, gt=0, le=1, description="gamma per environment step; the chunk discount is derived."
    )
    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="Decay of the advantage estimate (both)."
    )
    denoising_discount: float = Field(
        0.99, gt=0, le=1, description="Of the advantage per inner step that follows (DPPO)."
    )
    epochs: int = Field(10, ge=1, description="Passes over a rollout (DPPO: 10; ReinFlow: 5).")
    batch_size: int = Field(256, ge=1, description="Chunks per update.")
    actor_learning_rate: float = Field(
        1e-4, gt=0, description="Adam (DPPO, robomimic: 1e-4; ReinFlow, hopper: 4.5e-5)."
    )
    critic_learning_rate: float = Field(
        1e-3, gt=0, description="Adam (DPPO: 1e-3; ReinFlow, hopper: 6.5e-4)."
    )
    clip: float = Field(0.01, gt=0, description="PPO's clip at the last inner step (both).")
    clip_first: float = Field(0.001, gt=0, description="The clip at the first (DPPO).")
    clip_growth: float = Field(
        3.0, gt=0, description="Exponent with which it grows in between (DPPO)."
    )
    target_kl: float = Field(1.0, gt=0, description="Passes end beyond it (both).")
    entropy_weight: float = Field(
        0.0, ge=0, description="Of the chain's entropy (ReinFlow, hopper: 0.03)."
    )
    value_warmup_iterations: int = Field(
        0, ge=0, description="Improvements of the value alone, before the policy learns."
    )
    grad_clip: float = Field(50.0, gt=0, description="Gradient norm limit.")

    @model_validator(mode="after")
    def _fits(self) -> PolicyGradient:
        if self.noise == "learned" and self.min_std > self.max_std:
            raise ValueError("min_std must not exceed max_std")
        return self


def _algorithm(value: Any) -> str:
    found = value.get("algorithm") if isinstance(value, dict) else getattr(value, "algorithm", None)
    return "ppo" if found == "ppo" else "sac"


Learning = Annotated[
    Annotated[Rl, Tag("sac")] | Annotated[PolicyGradient, Tag("ppo")], Discriminator(_algorithm)
]
"""Section of a way to learn in simulation; ``algorithm`` says which."""
ALGORITHMS: dict[str, type[Budget]] = {"sac": Rl, "ppo": PolicyGradient}


class Real(Section):
    """RL of the residual on the robot: a session, and the learner that is replayed over what it recorded."""

    task: str = Field(
        "lift_cube", description="Task file: a built-in name (`zprl session tasks`) or a path."
    )
    interface: Literal["latent", "action", "noise", "embedding"] = Field(
        "latent", description="Whose simulation result the session goes on from."
    )
    mode: Literal["async", "sync"] = Field(
        "async",
        description="async: the robot never waits; sync: the authors' loop, chunk by chunk.",
    )
    train_episodes: int = Field(40, ge=0, description="Labelled training episodes.")
    evaluate_episodes: int = Field(
        60, ge=0, description="Episodes before and after, deterministic, the same start positions."
    )
    evaluation_seed: int = Field(
        300_000, ge=0, description="Seed of the evaluation's start positions."
    )
    speed: float = Field(
        3.0,
        ge=0,
        description="Pace of a double, times real time; 0: as fast as it goes. Hardware keeps its own.",
    )
    start: Literal["agent", "critics", "fresh", "base"] = Field(
        "agent",
        description="What is taken over from simulation: actor and critics, critics alone, or nothing (the residual starts near zero); "
        "base: there is no simulation of the task, the agent is made as finetune_sim says.",
    )
    updates_per_chunk: float = Field(
        10.0,
        gt=0,
        description="UTD: updates per recorded chunk (official code: up to 5; peers: 10 to 20).",
    )
    batch_size: int = Field(256, ge=1, description="Transitions per update.")
    sim_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each batch drawn from simulation's newest transitions: they speak of another world (ours).",
    )
    demo_fraction: float = Field(
        0.25, ge=0, lt=1, description="Share of each batch drawn from the demos (peers)."
    )
    critic_episodes: int = Field(
        5,
        ge=0,
        description="Labelled episodes before the actor changes: the critics see the new world first (ours).",
    )
    actor_learning_rate: float = Field(3e-4, gt=0, description="Adam.")
    critic_learning_rate: float = Field(3e-4, gt=0, description="Adam.")
    actor_period: int = Field(2, ge=1, description="Critic updates per actor update.")
    step_discount: float = Field(0.99, gt=0, le=1, description="gamma per control step.")

    @model_validator(mode="after")
    def _fits(self) -> Real:
        if self.sim_fraction + self.demo_fraction >= 1:
            raise ValueError(
                "sim_fraction + demo_fraction must leave a part for the robot's own transitions"
            )
        if self.start == "base" and self.sim_fraction:
            raise ValueError(
                "sim_fraction must be 0 where nothing comes from simulation (start: base)"
            )
        return self


class Promote(Section):
    """The gate between a candidate and the registry's champion."""

    model_name: str = Field(
        "zprl-lift-cube",
        pattern=safe_names.PATTERN,
        max_length=safe_names.MAX_NAME,
        description="Name in the MLflow model registry.",
    )
    min_episodes: int = Field(
        200, ge=1, description="Fewer evaluation episodes than this are no evidence."
    )
    max_jerk_ratio: float = Field(
        1.5, gt=0, description="The candidate's jerk may be at most so many times the incumbent's."
    )


class Report(Section):
    """The HTML page."""

    title: str = Field("Lift cube with a Franka, in Isaac", description="Heading of the page.")


class Params(Section):
    """All of ``params.yaml``."""

    run: Run = Run()
    task: Task = Task()
    ingest: Ingest = Ingest()
    policy: Policy = Policy()
    vib: VibConfig = VibConfig()
    images: Images = Images()
    pretrain: Pretrain = Pretrain()
    evaluate: Evaluate = Evaluate()
    transfer: Transfer = Transfer()
    finetune_sim: Learning = Rl()
    action_residual: Rl = Rl(interface="action")
    finetune_real: Real = Real()
    promote: Promote = Promote()
    promote_real: Promote = Promote(model_name="zprl-lift-cube-real", min_episodes=40)
    report: Report = Report()


def _known(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Names of the fields at the level where an unknown key was found."""
    for part in path[:-1]:
        if part in ALGORITHMS:
            model = ALGORITHMS[str(part)]
            continue
        field = model.model_fields.get(str(part))
        if field is not None and field.annotation == Learning.__origin__:
            continue
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return []
        model = field.annotation
    return list(model.model_fields)


def parse(value: Any, *, source: str = PARAMS_FILE) -> Params:
    """Check a mapping against the models; all mistakes are listed, one line each, with a "did you mean".

    Raises:
        ConfigError: for unknown keys, wrong types and values out of range.
    """
    try:
        return Params.model_validate(value or {})
    except ValidationError as error:
        said = mistakes(error, partial(_known, Params))
        raise ConfigError(
            f"{source}: {said}", remedy="`zprl config explain` lists every key"
        ) from error


def mistakes(error: ValidationError, known: Callable[[tuple[int | str, ...]], list[str]]) -> str:
    """List the mistakes of a document in one line, unknown keys with the nearest known one.

    Args:
        error: What pydantic found.
        known: Returns the keys that are known where the last part of a path stands.
    """
    lines = []
    found = error.errors(include_url=False, include_context=False)
    for item in found[:MAX_TOLD]:
        loc = tuple(part for part in item["loc"] if part not in ALGORITHMS)
        where = ".".join(str(part)[:60] for part in loc)
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(loc[-1])[:60], known(item["loc"]), n=1)
            lines.append(f"{where}: unknown key" + (f", did you mean '{near[0]}'?" if near else ""))
        else:
            lines.append(
                f"{where}: {item['msg']} (got {_short(item['input'])})" if loc else item["msg"]
            )
    lines += [f"and {len(found) - MAX_TOLD} more"] if len(found) > MAX_TOLD else []
    return "; ".join(lines)


def _short(value: Any, width: int = 80) -> str:
    """A value as text that fits a line."""
    text = repr(value)
    return text if len(text) <= width else f"{text[:width]}..."


def load(path: Path | str = PARAMS_FILE) -> Params:
    """Read and check ``params.yaml``."""
    try:
        value = strict_yaml.load(path)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist", remedy="run in the project's root folder"
        ) from error
    return parse(value, source=str(path))
