"""By which models images were encoded, and whether a generator carries the same. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets.runtime.errors import InputError
from datasets.runtime.manifests import manifest_of, model_sha256, recorded_path
from datasets.runtime.remote.copies import is_file
from datasets.shards.index_files import read_index_file
from datasets.shards.saved_models import same_model

ENCODERS = ("vae", "image_encoder")


@dataclass(frozen=True)
class EncoderUsed:
    """A frozen model that images were encoded by."""

    name: str
    """'vae' or 'image_encoder'."""
    folder: Path
    """Where it lay then."""
    sha256: str
    """Its fingerprint then (`model_sha256`)."""

    def is_there(self) -> bool:
        """Whether it still lies there, unchanged."""
        return is_file(self.folder / "config.json") and model_sha256(self.folder) == self.sha256


def encoders_used(encoded: Path) -> list[EncoderUsed]:
    """The models of an `encode` artifact whose fingerprints it keeps.

    Raises:
        ArtifactError: it is no such artifact.
    """
    made, index = manifest_of(encoded, "encode"), read_index_file(encoded, "encode")
    fingerprints = {name: index.get(f"{name}_sha256") for name in ENCODERS}
    return [EncoderUsed(name, recorded_path(made, name), sha256) for name, sha256 in fingerprints.items() if sha256]


def other_encoders(encoded: Path, generator: Path) -> list[str]:
    """Which of a generator's own encoders are others than those that images were encoded by: 'vae', 'image_encoder'.

    An encoder that is gone, or is no longer the one that it was, cannot be compared and is not among them.
    """
    carried = [used for used in encoders_used(encoded) if is_file(generator / used.name / "config.json")]
    return [
        used.name
        for used in carried
        if model_sha256(generator / used.name) != used.sha256
        and used.is_there()
        and not same_model(used.folder, generator / used.name)
    ]


def refuse_other_encoders(encoded: Path, generator: Path) -> None:
    """Refuse features that mean nothing to a generator.

    Raises:
        InputError: the images were encoded by another VAE or image encoder than the generator's own.
    """
    if others := other_encoders(encoded, generator):
        ways = " ".join(f"--{name.replace('_', '-')} {generator / name}" for name in others)
        raise InputError(
            f"{encoded} was encoded by another {' and '.join(others)} than {generator}'s own; encode with {ways}"
        )
