"""Keys and values of the positions that a net has read, kept so that the next token costs one position and not all of them.

Slot s of a row holds its position s. So rows of different lengths share a batch: a row that is shorter than the others is padded
behind, what the padding leaves in later slots is not looked at, and is written over as the row grows.

Shapes: B rows, T positions now being read, S slots, G key/value heads, H components of a head.
"""

import torch
from torch import Tensor


class LayerCache:
    """What one layer keeps."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.key_value: tuple[Tensor, Tensor] | None = None

    def append(self, key_BGTH: Tensor, value_BGTH: Tensor, positions_BT: Tensor, num_used: int) -> tuple[Tensor, Tensor]:
        """Put keys and values into the slots `places_BT`; (keys, values) of the first `used` slots."""
        if self.key_value is None:
            batch, num_heads, _, head_dim = key_BGTH.shape
            self.key_value = (
                key_BGTH.new_zeros(batch, num_heads, self.num_slots, head_dim),
                value_BGTH.new_zeros(batch, num_heads, self.num_slots, head_dim),
            )
        positions_BGTH = positions_BT[:, None, :, None].expand_as(key_BGTH)
        key_BGSH, value_BGSH = (
            old.scatter_(2, positions_BGTH, new) for old, new in zip(self.key_value, (key_BGTH, value_BGTH), strict=True)
        )
        return key_BGSH[:, :, :num_used], value_BGSH[:, :, :num_used]


class KVCache:
    """What all layers keep, for at most `slots` positions a row. `place` comes before each pass of the net."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.positions_BT = torch.empty(0, 0, dtype=torch.int64)
        self.attn_mask_B1TS = torch.empty(0, 1, 0, 0, dtype=torch.bool)
        self._layers: list[LayerCache] = []

    def set_positions(self, positions_BT: Tensor) -> None:
        """Say at which positions the next tokens stand. ValueError if one is beyond the slots."""
        num_used = int(positions_BT.max()) + 1
        if num_used > self.num_slots:
            raise ValueError(f"position {num_used - 1} asked of a cache of {self.num_slots} slots")
        self.positions_BT = positions_BT
        self.attn_mask_B1TS = (torch.arange(num_used, device=positions_BT.device) <= positions_BT[..., None])[:, None]

    def append(self, layer: int, key_BGTH: Tensor, value_BGTH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(keys, values, which of them each position may look at) of `layer`, those of the tokens now being read included."""
        while len(self._layers) <= layer:
            self._layers.append(LayerCache(self.num_slots))
        return *self._layers[layer].append(
            key_BGTH, value_BGTH, self.positions_BT, self.attn_mask_B1TS.shape[-1]
        ), self.attn_mask_B1TS

    def select(self, indices_B: Tensor) -> None:
        """Go on with these rows alone."""
        for layer_cache in self._layers:
            if layer_cache.key_value is not None:
                layer_cache.key_value = (
                    layer_cache.key_value[0].index_select(0, indices_B),
                    layer_cache.key_value[1].index_select(0, indices_B),
                )
