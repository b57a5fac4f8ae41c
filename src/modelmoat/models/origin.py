"""Where a victim comes from: what the card of an artifact tells, and an exported file in its metadata."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from modelmoat.models.artifact import ModelCard


class Origin(BaseModel):
    """What is known about a victim beside its answers; what a later version adds to a file is passed over."""

    model_config = ConfigDict(frozen=True)

    arch: str
    recipe: str = Field(description="how it was trained")
    data: str | None = Field(default=None, description="reference of its data")
    data_seed: int = Field(default=0, description="seed of the splits")
    data_digests: dict[str, str] = Field(default_factory=dict, description="hash of each split, and of ood")
    ood: str | None = Field(default=None, description="reference of out-of-distribution images it was trained with")
    defense: str | None = Field(default=None, description="spec of the defense inside the file; none for none")

    @classmethod
    def of(cls, card: ModelCard) -> Self:
        """What the card of an artifact tells; there is no defense inside."""
        return cls(
            arch=card.arch,
            recipe=card.recipe,
            data=card.data,
            data_seed=card.data_seed,
            data_digests=card.data_digests,
            ood=card.ood,
        )

    @property
    def behind(self) -> str:
        """The recipe, and the defense inside where there is one.

        >>> Origin(arch="small_cnn", recipe="standard", defense="top_k:k=2").behind
        'standard behind top_k:k=2'
        """
        return f"{self.recipe} behind {self.defense}" if self.defense else self.recipe
