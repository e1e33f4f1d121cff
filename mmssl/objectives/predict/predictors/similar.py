"""A sample is read from a mixture of the other samples of the batch, weighted by similarity: SimMTM, GenEVBattery."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from mmssl.draws import Draws
from mmssl.losses.similarity import copies_loss, mixture, similarity_weights
from mmssl.masking import Split
from mmssl.model import Encoder, MMSSLConfig
from mmssl.model.config import Positive
from mmssl.objectives.predict.parts import Predicted, Predictor
from mmssl.objectives.predict.predictors.mask_token import MaskToken
from mmssl.objectives.terms import Term
from mmssl.tokens import Tokens, gather


class Similar(Predictor):
    """Encode every place, a mask token at the hidden ones; predict linearly from the mean of all other rows of the batch.

    SimMTM (arXiv 2302.00861, section 3): a row is one mask of a sample; its tokens become the mean of those of the other rows,
    place by place, weighted by the softmax of the similarity of their projected means. With several masks of each sample
    (objective.masks) the weight on the other masks of the same sample is a contrastive loss of its own, and what one mask hides
    another shows: that is the idea. GenEVBattery (arXiv 2510.05172) does this with snippets of charging curves. Place j must mean
    the same in every sample: series of one length, columns of a table.

    projection_size: width of the projected means.
    temperature: what cosine similarities are divided by.
    contrast: factor on the contrastive loss of several masks of a sample; 0: none.
    predict: hidden = at the hidden places; all = at every valid place.
    """

    over_batch = True

    def __init__(
        self,
        *,
        projection_size: Positive = 64,
        temperature: Annotated[float, Field(gt=0)] = 0.2,
        contrast: Annotated[float, Field(ge=0)] = 1.0,
        predict: Literal["hidden", "all"] = "all",
    ) -> None:
        super().__init__()
        self.size, self.temperature, self.contrast = projection_size, temperature, contrast
        self.everywhere = predict == "all"
        self.reader = MaskToken(predict="all")

    def prepare(self, config: MMSSLConfig, *, identities: bool) -> None:
        self.reader.prepare(config, identities=identities)
        self.width = self.reader.width
        self.project = nn.Sequential(nn.Linear(self.width, self.size), nn.GELU(), nn.Linear(self.size, self.size))

    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split, draws: Draws, others: Sequence[Tokens] = ()) -> Predicted:
        read = self.reader(encoder, tokens, parts, draws)
        summaries = self.project(tokens.with_values(read.values).mean())
        weights = similarity_weights(summaries, self.temperature)
        terms = {"similar_masks": Term.whole(copies_loss(weights, self.masks), factor=self.contrast)} if self.weights() else {}
        values = mixture(weights, read.values, tokens.valid)
        return Predicted(values if self.everywhere else gather(values, parts.hidden), *self.places(tokens, parts), terms=terms)

    def weights(self) -> dict[str, float]:
        return {"similar_masks": 1.0} if self.contrast and self.masks > 1 else {}
