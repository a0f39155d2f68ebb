"""Cache keys and values, so that each new token costs one position.

Slot s of a sequence holds its position s, so sequences of different lengths share a batch: a shorter sequence is padded on the
right, later slots with padding are masked, and they are overwritten as the sequence grows.

Shapes: B sequences, T new positions, S slots, G key/value heads, H head size.
"""

import torch
from torch import Tensor


class LayerCache:
    """Hold the keys and values of one layer."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.key_value: tuple[Tensor, Tensor] | None = None

    def append(self, key_BGTH: Tensor, value_BGTH: Tensor, positions_BT: Tensor, num_used: int) -> tuple[Tensor, Tensor]:
        """Write keys and values into the slots `positions_BT`.

        Returns (keys, values) of the first `num_used` slots.
        """
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
    """Hold the keys and values of all layers.

    Call `set_positions` before each forward pass.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.positions_BT = torch.empty(0, 0, dtype=torch.int64)
        self.attn_mask_B1TS = torch.empty(0, 1, 0, 0, dtype=torch.bool)
        self._layers: list[LayerCache] = []

    def set_positions(self, positions_BT: Tensor) -> None:
        """Set the positions of the next tokens.

        Raises ValueError for a position beyond the slots.
        """
        num_used = int(positions_BT.max()) + 1
        if num_used > self.num_slots:
            raise ValueError(f"position must be < {self.num_slots}, the number of slots of the cache, got {num_used - 1}")
        self.positions_BT = positions_BT
        self.attn_mask_B1TS = (torch.arange(num_used, device=positions_BT.device) <= positions_BT[..., None])[:, None]

    def append(self, layer: int, key_BGTH: Tensor, value_BGTH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Append to `layer`; return its keys, its values and the attention mask.

        New tokens are included.
        """
        while len(self._layers) <= layer:
            self._layers.append(LayerCache(self.num_slots))
        return *self._layers[layer].append(
            key_BGTH, value_BGTH, self.positions_BT, self.attn_mask_B1TS.shape[-1]
        ), self.attn_mask_B1TS

    def select(self, indices_B: Tensor) -> None:
        """Keep only the sequences `indices_B` of the batch."""
        for layer_cache in self._layers:
            if layer_cache.key_value is not None:
                layer_cache.key_value = (
                    layer_cache.key_value[0].index_select(0, indices_B),
                    layer_cache.key_value[1].index_select(0, indices_B),
                )
