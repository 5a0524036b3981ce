"""The benchmark's arms: what a re-ID network is trained on, from where, for how long, and what that tells.

One object per arm; command lines, flows, tables and the report take everything about it from here. A module from
outside adds one by ``ARMS.register(Arm(...))`` (docs/extending.md). No torch: the flows import this.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from datasets.runtime.registry import Registry
from reid.config import TrainReidSettings, cheap_augmentation

PALETTE = 8
"""Colors of the report's charts: ``--series-0`` to ``--series-7`` of its style sheet."""
PRETRAINING = "pretraining"
"""Name of the runs on other people that arms start from; they are no arm of the table."""


def unchanged(settings: TrainReidSettings) -> TrainReidSettings:
    """The recipe as it is."""
    return settings


@dataclass(frozen=True, kw_only=True)
class Arm:
    """An arm of the table."""

    name: str
    """As tables and command lines show it: letters, digits, '_', '+', '.', '-'."""
    text: str
    """What its network is trained on, in a sentence."""
    tells: str
    """What a comparison with it tells."""
    trains_on: Literal["real", "synthetic", "reconstructions", "foreign poses", "rare poses", "foreign"] = "real"
    """Beside the subset: nothing, the generator's images, those in the source's pose, in another data set's poses, in
    rare ones, or another generator's images."""
    starts_from: Literal["nothing", "real", "other people"] = "nothing"
    """A new network, that of arm 'real' of the same subset and seed, or one trained on the people whom the generator's
    base has seen."""
    steps: Literal["recipe", "long", "rest"] = "long"
    """'recipe': the recipe's own; 'long': `long` times as many; 'rest': what is left of them after arm 'real'."""
    checked: bool = False
    """Whether it takes only those generated images that the identity check keeps."""
    controls: Literal["nothing", "length", "other people"] = "nothing"
    """Which other explanation of a gain it is the control for."""
    color: int = PALETTE - 1
    """Place in the report's palette, from 0."""
    recipe: Callable[[TrainReidSettings], TrainReidSettings] = unchanged
    """How its settings differ from the recipe's, apart from steps and learning rate."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w+.-]+", self.name):
            raise ValueError(f"arm name '{self.name}': take letters, digits and _ + . - only")
        if not 0 <= self.color < PALETTE:
            raise ValueError(f"arm '{self.name}': color {self.color} is not among the palette's 0 to {PALETTE - 1}")
        if self.steps == "rest" and self.starts_from != "real":
            raise ValueError(
                f"arm '{self.name}': steps 'rest' are those after arm 'real', so it must start from 'real'"
            )
        if self.checked and self.trains_on != "synthetic":
            raise ValueError(
                f"arm '{self.name}': only synthetic images are checked, but it trains on '{self.trains_on}'"
            )

    @property
    def generated(self) -> bool:
        """Whether it trains on generated images of any kind."""
        return self.trains_on != "real"

    @property
    def needs_generator(self) -> bool:
        """Whether it trains on what the subset's own generator makes."""
        return self.trains_on not in ("real", "foreign")

    @property
    def needs_real(self) -> bool:
        """Whether it needs the run of arm 'real': to start from, or as the judge of identities."""
        return self.starts_from == "real" or self.checked

    @property
    def needs_others(self) -> bool:
        """Whether it starts from a network that was trained on other people."""
        return self.starts_from == "other people"

    @property
    def needs_length(self) -> bool:
        """Whether it makes no sense where `long` is 1."""
        return self.steps == "rest" or self.controls == "length"


def _cheap(settings: TrainReidSettings) -> TrainReidSettings:
    return settings.model_copy(update={"augmentation": cheap_augmentation(settings.augmentation)})


REAL = Arm(
    name="real",
    text="The real images of the subset alone.",
    tells="the usual baseline",
    steps="recipe",
    color=0,
)
REAL_LONG = Arm(
    name="real-long",
    text="Real images alone for as many optimization steps as the arms with synthetic ones.",
    tells="whether a gain is only more training",
    controls="length",
    color=2,
)
CHEAP_AUGMENTATION = Arm(
    name="cheap-augmentation",
    text="Real images with color jitter 0.3, erasing 0.5 and twice the padding.",
    tells="what costs no generator",
    color=6,
    recipe=_cheap,
)
REAL_PRETRAINED = Arm(
    name="real-pretrained",
    text="Real images alone, but the network was first trained on the other people that the generator’s base has seen.",
    tells="whether a gain is only those people's pictures",
    starts_from="other people",
    controls="other people",
    color=5,
)
RECONSTRUCTION = Arm(
    name="reconstruction",
    text="Real images and as many generated ones that keep their source’s pose.",
    tells="whether new poses help, or only another look of the pixels",
    trains_on="reconstructions",
    color=4,
)
REAL_THEN_SYNTHETIC = Arm(
    name="real-then-synthetic",
    text="First the real images, then further on real and generated ones.",
    tells="PIDM's schedule",
    trains_on="synthetic",
    starts_from="real",
    steps="rest",
    color=3,
)
REAL_CHECKED = Arm(
    name="real+checked",
    text="As real+synthetic, with only those generated images that the identity check has kept.",
    tells="whether wrong persons spoil it",
    trains_on="synthetic",
    checked=True,
    color=7,
)
REAL_SYNTHETIC = Arm(
    name="real+synthetic",
    text="Real and generated images of the same people, mixed from the first step on.",
    tells="the gain",
    trains_on="synthetic",
    color=1,
)
FOREIGN_POSES = Arm(
    name="real+foreign-poses",
    text="As real+synthetic, but the generated images take their poses from another data set’s people.",
    tells="whether poses that the subset lacks help",
    trains_on="foreign poses",
    color=3,
)
RARE_POSES = Arm(
    name="real+rare-poses",
    text="As real+synthetic, but poses are the likelier, the fewer images show their direction and stride.",
    tells="whether rarer viewpoints help",
    trains_on="rare poses",
    color=7,
)
PRETRAINED_SYNTHETIC = Arm(
    name="pretrained+synthetic",
    text="As real+synthetic, but from the network that real-pretrained is initialized from.",
    tells="what synthesis adds to those people's pictures",
    trains_on="synthetic",
    starts_from="other people",
    color=6,
)
ARMS = Registry(
    "arm",
    REAL,
    REAL_LONG,
    CHEAP_AUGMENTATION,
    REAL_PRETRAINED,
    RECONSTRUCTION,
    REAL_THEN_SYNTHETIC,
    REAL_CHECKED,
    FOREIGN_POSES,
    RARE_POSES,
    REAL_SYNTHETIC,
    PRETRAINED_SYNTHETIC,
)
"""The arms in the order in which they are argued."""


def arm_of(name: str) -> Arm:
    """The arm of this name; one that is not registered is another generator's (``--synthetic NAME=PATH``)."""
    if name in ARMS:
        return ARMS[name]
    text, tells = "Real images and another generator’s, mixed in alike.", "competitors in the same table"
    return Arm(name=name, text=text, tells=tells, trains_on="foreign")


def arm_rank(name: str) -> tuple[int, str]:
    """Sorts registered arms first, in their order, then the others by name."""
    return ([*ARMS, name].index(name), name)
