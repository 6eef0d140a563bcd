"""Shapes of the two kinds of work that a mixture-of-experts layer does, written as text the same way everywhere."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from autotune.errors import UsageError

DType = Literal["float32", "bfloat16", "float16"]
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_Size = Annotated[int, Field(gt=0)]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __str__(self) -> str:
        """The text that `parse_shape` reads."""
        kind, *sizes = self.model_dump().items()
        return f"{kind[1]}:" + ",".join(f"{name}={value}" for name, value in sizes)


class FfnShape(_Shape):
    """One expert: a gated feed-forward network ``w2 @ (silu(w1 @ x) * (w3 @ x))`` (Shazeer 2020, SwiGLU).

    `w1` and `w3` are ``inter x hidden``, `w2` is ``hidden x inter``.
    """

    kind: Literal["ffn"] = "ffn"
    hidden: _Size
    inter: _Size
    dtype: DType = "bfloat16"

    @property
    def weight_bytes(self) -> int:
        """Bytes of the three matrices."""
        return 3 * self.hidden * self.inter * _BYTES[self.dtype]


class DenseShape(_Shape):
    """What a layer computes before its experts: attention with its four projections, and the router.

    The tokens are new tokens of one sequence; each attends to the same cached `context` positions. With one token this is
    a decoding step. `kv_heads < heads` is grouped-query attention; `experts` is the router's width.
    """

    kind: Literal["dense"] = "dense"
    hidden: _Size
    heads: _Size
    kv_heads: _Size
    head_dim: _Size
    experts: _Size
    context: _Size = 512
    dtype: DType = "bfloat16"

    @model_validator(mode="after")
    def _whole_groups(self) -> DenseShape:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} is no multiple of kv_heads={self.kv_heads}")
        return self

    @property
    def weight_bytes(self) -> int:
        """Bytes of the projections, the router and the cached keys and values, all of which one token reads."""
        projections = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        cached = 2 * self.context * self.kv_heads * self.head_dim
        return (projections + self.hidden * self.experts + cached) * _BYTES[self.dtype]


Shape = Annotated[FfnShape | DenseShape, Field(discriminator="kind")]

# The sizes of Qwen3-30B-A3B: a current model whose experts are small enough to be measured in seconds on two cores.
DEFAULT_SHAPES: tuple[FfnShape | DenseShape, ...] = (
    FfnShape(hidden=2048, inter=768),
    DenseShape(hidden=2048, heads=32, kv_heads=4, head_dim=128, experts=128),
)


def parse_shape(text: str | FfnShape | DenseShape) -> FfnShape | DenseShape:
    """Read ``ffn:hidden=2048,inter=768`` or ``dense:hidden=2048,heads=32,kv_heads=4,head_dim=128,experts=128``.

    `dtype` (and `context` of dense) may follow.

    Raises:
        UsageError: naming the field that is wrong.
    """
    if not isinstance(text, str):
        return text
    kind, _, rest = text.partition(":")
    classes: dict[str, type[FfnShape | DenseShape]] = {"ffn": FfnShape, "dense": DenseShape}
    if kind not in classes:
        raise UsageError(f"shape {text!r} must begin with 'ffn:' or 'dense:', as in ffn:hidden=2048,inter=768")
    fields: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        name, separator, value = part.partition("=")
        if not separator:
            raise UsageError(f"shape {text!r}: {part!r} is not of the form NAME=VALUE")
        fields[name.strip()] = value.strip()
    try:
        return classes[kind](**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or kind
        raise UsageError(f"shape {text!r}: {where}: {first['msg']}") from None
