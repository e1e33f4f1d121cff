"""Models that predict: the encoder with a label head, under the names by which transformers finds them."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import SemanticSegmenterOutput, SequenceClassifierOutput, TokenClassifierOutput
from transformers.utils import logging
from transformers.utils.output_capturing import capture_outputs

from mmssl.modality import IGNORED, VOID, rebuilt
from mmssl.model.adaptation import is_adapter, load_adapted
from mmssl.model.config import MMSSLConfig
from mmssl.model.labels import LabelHead, LabelKind
from mmssl.model.loading import load_whole
from mmssl.model.model import LABEL, MMSSLModel, check_names, labels_of_places, name_inputs
from mmssl.model.public import is_public, open_public
from mmssl.processor import check_there

logger = logging.get_logger(__name__)


class MMSSLForLabels(MMSSLModel):
    """An encoder with a head that predicts labels; one of `FACES`.

    As `MMSSLModel` has the head as well where its configuration speaks of one, both read the same files.

    A configuration whose `num_labels` or `problem_type` are not those of its head asks for a fresh one, as in transformers.
    ValueError for a configuration with the head of another class.
    """

    def __init__(self, config: MMSSLConfig) -> None:
        head = None if config.label_head is None else rebuilt(LabelHead, config.label_head, "label head")
        if head is not None and not isinstance(self, face_of(head)):
            raise ValueError(
                f"this model does another task than {type(self).__name__}: open it with {head.face}. For a fresh head in its place "
                "give label_head=None, with num_labels and ignore_mismatched_sizes=True"
            )
        if head is None or config.num_labels != head.size or config.problem_type not in (None, head.problem):
            head = self.fresh_head(config)
            config.label_head, config.problem_type = head.settings(), head.problem
        super().__init__(config)
        if not isinstance(self, face_of(head)):
            self.__class__ = face_of(head)  # numbers in the place of classes, where they were asked for

    @classmethod
    def fresh_head(cls, config: MMSSLConfig) -> LabelHead:
        """The head of a model whose configuration speaks of none, as `num_labels` and `problem_type` say, as in transformers."""
        raise NotImplementedError

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(self, *, labels: Tensor | None = None, **inputs: Any) -> Any:
        """Predict from what `MMSSLProcessor` returned, of one modality.

        labels: class numbers `[b]`, 0 or 1 for each class `[b, k]` (multi_label), or values `[b]`, of a list of them `[b, k]` or as
            they were; with them `loss` is their mean.
        Returns logits `[b, k]`: softmax of them (sigmoid for multi_label) are probabilities; of a regression the values themselves.
        ValueError for inputs of several modalities, or of one that the head does not read.
        """
        self.check_labels(labels)
        name, inputs = self.one_of(inputs)
        head, level = self.label_head, self.level(name, inputs)
        given = self.predicted(self.of_modality(name, inputs).pooler_output) if head.tokens is None else self.labelled(name, inputs)
        truth = labels if labels is None or head.kind in ("multi_label", "regression") else labels.flatten()
        loss = None if truth is None else head.loss(given, truth, level=level).mean()
        return SequenceClassifierOutput(loss=loss, logits=head.logits(given, level))

    def check_labels(self, labels: Any) -> None:
        """TypeError for labels that are no tensor; says once that a head does not learn from them."""
        if labels is None:
            return
        check_names({"labels": labels}, ["labels"])
        head = dict(self.heads or {})[LABEL]
        if self.training and torch.is_grad_enabled() and not any(value.requires_grad for value in head.parameters()):
            logger.warning_once(
                "the head that predicts the labels does not learn, and an adapter folder will not hold it. In peft's configuration "
                f"give modules_to_save=[{LABEL!r}]: its task_type knows heads by other names"
            )

    def one_of(self, inputs: dict[str, Any]) -> tuple[str, dict[str, Tensor]]:
        """The modality that the labels are told from, and its inputs. ValueError for another one, or several."""
        found = self.tensors_of(inputs)
        names, own = self.modalities_of(found), self.label_head.modality
        if len(names) > 1 or own not in (None, names[0]):
            raise ValueError(f"labels are predicted from {own or 'one modality'}; got inputs of {', '.join(names)}")
        return names[0], found


class MMSSLForClassification(MMSSLForLabels):
    """An encoder that tells classes: one of several, ordered ones, or several at once, as `label_head` says.

    A fresh one with `num_labels=1` or `problem_type="regression"` is an `MMSSLForRegression`: transformers means numbers by that.
    """

    @classmethod
    def fresh_head(cls, config: MMSSLConfig) -> LabelHead:
        if config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1):
            return MMSSLForRegression.fresh_head(config)
        kind: LabelKind = "multi_label" if config.problem_type == "multi_label_classification" else "classification"
        return LabelHead(kind=kind, size=config.num_labels)


class MMSSLForRegression(MMSSLForLabels):
    """An encoder that predicts a number, or a list of numbers, in the unit of the labels that it was trained on.

    A fresh head gives one number; with `problem_type="regression"` a list of `num_labels`.
    """

    @classmethod
    def fresh_head(cls, config: MMSSLConfig) -> LabelHead:
        if config.problem_type != "regression":
            config.num_labels = 1
        size = config.num_labels
        return LabelHead(kind="regression", size=size, shape=None if size == 1 else [size])


class MMSSLForTimeSeriesPrediction(MMSSLForLabels):
    """An encoder that tells the next steps of series of one variable, in their own units.

    Its `logits` are `[b, horizon]`, with `labels` of that shape its loss is in units of `label_head.std`. A series that was seen
    has as many steps as `label_head.windows["context"]` says.
    """

    @classmethod
    def fresh_head(cls, config: MMSSLConfig) -> LabelHead:
        raise ValueError(
            "a model that forecasts knows how many steps it sees, and how many follow: train one with data.forecast and the "
            "objective supervised"
        )


class MMSSLForPlaces(MMSSLForLabels):
    """An encoder that tells a class for each place of a sample; one of the three below."""

    places: ClassVar[Literal["map", "sequence", "steps"]]

    @classmethod
    def fresh_head(cls, config: MMSSLConfig) -> LabelHead:
        return LabelHead(kind="dense", size=config.num_labels, places=cls.places)

    def of_places(self, labels: Tensor | None, inputs: dict[str, Any]) -> tuple[Tensor | None, Tensor]:
        """The loss, where there are labels, and logits as `told` lays them out."""
        self.check_labels(labels)
        name, found = self.one_of(inputs)
        adapter = self.adapter(name)
        known = {key: found[key] for key in adapter.input_names if key in found}
        logits = self.dense(name, self.encode(name, known), known)
        given = self.told(name, logits, known)
        if labels is None:
            return None, given
        dense = labels_of_places(adapter, name)
        truth = labels.masked_fill(labels == VOID, IGNORED) if self.places == "map" else labels
        at = dense.at_labels(logits, {**known, dense.labels: truth})
        return F.cross_entropy(at.float(), truth, ignore_index=IGNORED), given


class MMSSLForSemanticSegmentation(MMSSLForPlaces):
    """An encoder that tells a class for each pixel of a picture.

    `logits` are `[b, k, h, w]`, smaller than the picture; `post_process_semantic_segmentation` of the image processor makes label
    maps of them. With `labels` `[b, h, w]`, 255 where a pixel has none, its loss is that of logits interpolated to their size.
    """

    places = "map"

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(self, *, labels: Tensor | None = None, **inputs: Any) -> Any:
        loss, logits = self.of_places(labels, inputs)
        return SemanticSegmenterOutput(loss=loss, logits=logits)


class MMSSLForTokenClassification(MMSSLForPlaces):
    """An encoder that tells a class for each token of a text, trained on the first token of each word.

    `logits` are `[b, n, k]`, `labels` `[b, n]`, -100 where a token has none.
    """

    places = "sequence"

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(self, *, labels: Tensor | None = None, **inputs: Any) -> Any:
        loss, logits = self.of_places(labels, inputs)
        return TokenClassifierOutput(loss=loss, logits=logits)


class MMSSLForFrameClassification(MMSSLForPlaces):
    """An encoder that tells a class for each step of a series, or each frame of a sound (`label_rate` of its processor a second).

    `logits` are `[b, t, k]`, those behind the end of a padded sample mean nothing; `labels` `[b, t]`, or fewer steps, -100 where a
    step has none.
    """

    places = "steps"

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(self, *, labels: Tensor | None = None, **inputs: Any) -> Any:
        loss, logits = self.of_places(labels, inputs)
        return TokenClassifierOutput(loss=loss, logits=logits)


FACES: Mapping[str, type[MMSSLForLabels]] = {
    face.__name__: face
    for face in (
        MMSSLForClassification,
        MMSSLForRegression,
        MMSSLForTimeSeriesPrediction,
        MMSSLForSemanticSegmentation,
        MMSSLForTokenClassification,
        MMSSLForFrameClassification,
    )
}


def face_of(head: LabelHead) -> type[MMSSLForLabels]:
    """The class of a model with this head."""
    return FACES[head.face]


def faced(model: MMSSLModel) -> MMSSLModel:
    """The same model, its parts shared, as the class that says what it does: one that predicts where it has a label head."""
    other = copy.copy(model)
    other.__class__ = MMSSLModel if model.config.label_head is None else face_of(model.label_head)
    name_inputs(type(other), [name for each in other.adapters for name in other.adapter(each).input_names])
    return other


def load_predictor(model: str | Path) -> MMSSLForLabels:
    """A saved model that predicts labels, folder or Hub id. ValueError: it is an encoder without a label head."""
    check_there(model)
    config = MMSSLConfig.from_pretrained(model)
    if config.label_head is None:
        raise ValueError(
            f"{model} is an encoder and predicts no labels: fine-tune it first, as in mmssl train RECIPE init={model} "
            "'objective={name: supervised}' data.columns.label=COLUMN"
        )
    kind = face_of(rebuilt(LabelHead, config.label_head, "label head"))
    return cast(MMSSLForLabels, load_adapted(model, kind)) if is_adapter(model) else load_whole(kind, model)


def load_model(model: str | Path, config: MMSSLConfig | None = None, wanted: Sequence[str] = ()) -> MMSSLModel:
    """A saved model, folder or Hub id, or a PEFT folder, whole and without a progress bar; `config` in the place of its own.

    A public encoder becomes a model of mmssl; of several, such as CLIP's, that of a modality in `config`, or else in `wanted`.
    """
    if is_adapter(model):
        return load_adapted(model, MMSSLModel, config)
    if is_public(str(model)):
        return open_public(str(model), tuple(config.modalities if config else wanted)).load(config)
    return load_whole(MMSSLModel, model, config)
