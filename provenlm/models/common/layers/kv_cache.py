"""Keys and values of the positions that a net has read, kept so that the next token costs one position and not all of them.

Slot s of a row holds its position s. So rows of different lengths share a batch: a row that is shorter than the others is padded
behind, what the padding leaves in later slots is not looked at, and is written over as the row grows.

Shapes: B rows, T positions now being read, S slots, G key/value heads, H components of a head.
"""

import torch
from torch import Tensor


class Past:
    """What one layer keeps."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.kept: tuple[Tensor, Tensor] | None = None

    def extend(self, key_BGTH: Tensor, value_BGTH: Tensor, places_BT: Tensor, used: int) -> tuple[Tensor, Tensor]:
        """Put keys and values into the slots `places_BT`; (keys, values) of the first `used` slots."""
        if self.kept is None:
            batch, heads, _, head = key_BGTH.shape
            self.kept = (key_BGTH.new_zeros(batch, heads, self.slots, head), value_BGTH.new_zeros(batch, heads, self.slots, head))
        places_BGTH = places_BT[:, None, :, None].expand_as(key_BGTH)
        key_BGSH, value_BGSH = (
            old.scatter_(2, places_BGTH, new) for old, new in zip(self.kept, (key_BGTH, value_BGTH), strict=True)
        )
        return key_BGSH[:, :, :used], value_BGSH[:, :, :used]


class Cache:
    """What all layers keep, for at most `slots` positions a row. `place` comes before each pass of the net."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.places_BT = torch.empty(0, 0, dtype=torch.int64)
        self.seen_B1TS = torch.empty(0, 1, 0, 0, dtype=torch.bool)
        self._layers: list[Past] = []

    def place(self, places_BT: Tensor) -> None:
        """Say at which positions the next tokens stand. ValueError if one is beyond the slots."""
        used = int(places_BT.max()) + 1
        if used > self.slots:
            raise ValueError(f"position {used - 1} asked of a cache of {self.slots} slots")
        self.places_BT = places_BT
        self.seen_B1TS = (torch.arange(used, device=places_BT.device) <= places_BT[..., None])[:, None]

    def extend(self, layer: int, key_BGTH: Tensor, value_BGTH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(keys, values, which of them each position may look at) of `layer`, those of the tokens now being read included."""
        while len(self._layers) <= layer:
            self._layers.append(Past(self.slots))
        return *self._layers[layer].extend(key_BGTH, value_BGTH, self.places_BT, self.seen_B1TS.shape[-1]), self.seen_B1TS

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        for past in self._layers:
            if past.kept is not None:
                past.kept = (past.kept[0].index_select(0, rows), past.kept[1].index_select(0, rows))
