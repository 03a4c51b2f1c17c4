"""The model in Composer's terms, given the real tokens of a batch end to end."""

from __future__ import annotations

from typing import Any

from composer.models import HuggingFaceModel

from lvf.models.packed import end_to_end


class PackedModel(HuggingFaceModel):
    """Composer's wrapper for batches of `lvf.data.loader.collate`."""

    def forward(self, batch: dict[str, Any]) -> Any:
        """Outputs of the model, its loss among them, without a thought for padding."""
        return self.model(**end_to_end(batch))
