"""What a modality plug-in is, and how one is found.

A plug-in is one file that builds one `Modality` and names it in the entry-point group `mmssl.modalities`:

    [options.entry_points]
    mmssl.modalities =
        image = mmssl_modalities.image:IMAGE
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from inspect import Parameter, signature
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeGuard, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmssl.draws import Draws
from mmssl.plugins import installed, load
from mmssl.tokens import Tokens
from mmssl_catalogue import points

T = TypeVar("T")

IGNORED, VOID = -100, 255
"""The class numbers of places that have no label, as in transformers: of any place, and in the pixels of a label map."""

Inputs = dict[str, Tensor]
"""The tensors of one sample (no batch dimension) or of one batch (with it), by input name."""


@dataclass(frozen=True)
class Odd:
    """Something that looks odd in a part: what it is, how it shows there, and the way out, which parts of one kind share."""

    what: str
    how: str
    way_out: str


@dataclass(frozen=True)
class Content:
    """One part of the raw samples: a column of a table, the channels of a series.

    kind: what it is taken for (number, category, left out). detail: more of that (12 classes).
    missing: share of the samples that lack it; None: that has no meaning. example: one value, as text.
    """

    name: str
    kind: str
    detail: str = ""
    missing: float | None = None
    example: str = ""
    odd: tuple[Odd, ...] = ()


@dataclass(frozen=True)
class Claim:
    """What a modality would read of a table's columns: one, or several where it reads a whole row.

    certainty: 1 where nothing else can be meant, 0.5 where something else may as well be. why: what it knows them by.
    """

    columns: str | list[str]
    certainty: float
    why: str


@dataclass(frozen=True)
class Suited:
    """A value of a recipe's key that suits some samples, and why, for who reads the recipe."""

    value: Any
    why: str


@dataclass(frozen=True)
class Reference:
    """A method without pretraining, fitted on labelled training samples alone, that a table of scores should not leave out.

    sample: what it is given of a raw sample. estimator: one of scikit-learn, for classes or for values, with a seed.
    """

    title: str
    sample: Callable[[Any], Any]
    estimator: Callable[[bool, int], Any]


class StepTimes(NamedTuple):
    """When the steps of a sample are: of each the point in time that says which label it has, and between which edges it lies."""

    points: Float[np.ndarray, " s"]
    edges: Float[np.ndarray, " s1"]


class Processor(ABC):
    """One raw sample to named tensors: deterministic, picklable, runs on CPU workers.

    The keyword-only arguments of a subclass are its recipe keys and, as `settings()`, the JSON that is saved with the model.
    """

    padding: ClassVar[Mapping[str, float]] = {}
    """What `collate` fills tensors up with where samples differ in size, by input name; zero or False for those not named."""
    free: ClassVar[frozenset[str]] = frozenset()
    """Recipe keys on which no weight depends: a recipe may set them otherwise than the model that it starts from."""
    whole: ClassVar[str] = ""
    """The recipe key, with its value, that makes one sample of a long one, for messages; where it may be `windowed`."""

    options: ClassVar[tuple[str, ...]] = ()
    """What `with_options` understands."""

    @property
    def windowed(self) -> bool:
        """Whether a raw sample may be longer than one sample of the model: then `pieces` cuts it, and `__call__` refuses it."""
        return False

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor arguments that rebuild this processor, fitted statistics included, as JSON values."""

    def fit(self, samples: Iterable[Any]) -> None:
        """Compute statistics or vocabularies from raw training samples. Called once, before the model is built."""

    @property
    def fitted(self) -> bool:
        """Whether `fit` has nothing left to do."""
        return True

    def contents(self, samples: Iterable[Any]) -> list[Content]:
        """What the fitted processor takes the parts of raw samples for, and what looks odd; told to the user.

        samples: some of the source, evenly spaced over it; a modality whose samples are dear need not take all of them. Cells that
        cannot be read are passed over: the loader deals with them. Nothing to tell: an empty list.
        """
        return []

    def absent(self, raw: Any) -> bool:
        """Whether a row that pairs modalities just lacks this one, and is nothing bad: None, an empty text, NaN."""
        return raw is None or (isinstance(raw, str) and not raw.strip()) or (isinstance(raw, float) and math.isnan(raw))

    @abstractmethod
    def __call__(self, raw: Any) -> Inputs:
        """Tensors of one raw sample. Raises ValueError or TypeError that says what is wrong with it and the way out."""

    def batch(self, raws: Sequence[Any]) -> Inputs:
        """The collated tensors of one raw sample or more, for processors that are faster on many. Raises what `__call__` does."""
        return self.collate([self(raw) for raw in raws])

    def many(self, raw: Any) -> list[Any]:
        """The raw samples in what a user passes to `MMSSLProcessor(<keyword>=...)`: a list, or one sample."""
        return list(raw) if isinstance(raw, list | tuple) else [raw]

    def pieces(self, raw: Any) -> list[Any]:
        """The raw samples into which a long one is cut, in order, with nothing lost; each is one that `__call__` takes.

        Training draws from all pieces; the features of a sample are the mean over its pieces.
        """
        return [raw]

    def plain(self, raw: Any) -> Any:
        """A raw sample as encoders that mmssl did not train read it, by `Modality.served`.

        image_processor: a PIL image in RGB, at its own size. tokenizer: its text, a str. Raises what `__call__` does.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no plain samples, which public encoders would read")

    def beginning(self, raw: Any) -> Any:
        """The first piece of a raw sample, in the place of all of it."""
        return self.pieces(raw)[0]

    def with_options(self, raw: Any, options: Mapping[str, Any]) -> Any:
        """A raw sample with what the caller of a transformers processor says beside it, as `audio_kwargs={"sampling_rate": 16000}`.

        options: of those named in `options`; others are refused, or known to change nothing (padding).
        """
        return raw

    def labelled(self, raw: Any, labels: Int[np.ndarray, "*places"] | None) -> Inputs:
        """The tensors of one raw sample, or of a piece of one, with those that say where the labels of its places belong.

        labels: class numbers of the places that the whole sample has, the pixels of a picture or the words of a text, -100 for
            those without a label; None: they are to be predicted. Raises what `__call__` does, and for labels of another size.
        """
        raise ValueError(
            f"samples that {type(self).__name__} reads have no places with labels of their own (objective.kind: dense)"
        )

    def step_times(self, raw: Any) -> StepTimes:
        """When the steps of a whole raw sample are that have labels of their own, in the time in which segments are given.

        Raises what `__call__` does, and where samples have no steps in time.
        """
        raise ValueError(
            f"samples that {type(self).__name__} reads have no steps in time, and so no segments with a start and an end: name "
            "another column for the label (data.columns.label)"
        )

    def words(self, raw: Any) -> list[str] | None:
        """The words of a raw sample, in order, where these are the places that have labels; None: they are not."""
        return None

    def hub_tokenizer(self) -> Any:
        """A tokenizer of transformers that makes the same ids, where samples are texts; else None."""
        return None

    @abstractmethod
    def collate(self, samples: Sequence[Inputs]) -> Inputs:
        """Stack samples into a batch, padding where their sizes differ."""

    @classmethod
    def sized(cls, inputs: Inputs) -> Inputs:
        """A collated batch with the tensors that `collate` leaves out where samples are equally large: sizes, what is valid."""
        return inputs

    @classmethod
    def join(cls, parts: Sequence[Inputs]) -> Inputs:
        """Collated batches as one, their samples in order, filled up with `padding` where sizes differ."""
        shapes = [{name: tensor.shape[1:] for name, tensor in part.items()} for part in parts]
        if any(shape != shapes[0] for shape in shapes):
            parts = [cls.sized(part) for part in parts]
            names = [sorted(part) for part in parts]
            assert all(each == names[0] for each in names), f"{cls.__name__}.sized must add what collate leaves out; got {names}"
        return {name: pad_cat([part[name] for part in parts], cls.padding.get(name, 0.0)) for name in parts[0]}

    @abstractmethod
    def features(self, inputs: Inputs) -> Float[np.ndarray, " f"]:
        """What a linear model would be given of one sample without any learning: the raw-features row of every table."""

    def reference(self) -> Reference | None:
        """The method that people would use without pretraining, where it beats a linear model of `features`."""
        return None


@dataclass(frozen=True)
class Patch:
    """How the values of a float target lie in a picture: rows, columns and channels, in this order.

    axes: the coordinates (0 time, 1 depth, 2 height, 3 width) along which rows and columns run; tokens come row by row.
    """

    rows: int
    columns: int
    channels: int
    axes: tuple[int, int] = (2, 3)


class Axis(NamedTuple):
    """An axis of inputs along which batches may differ in size.

    name: the same for axes of one size. unit: sizes are multiples of it. longest: the largest number of units; None: any.
    """

    name: str
    unit: int = 1
    longest: int | None = None


class Adapter(nn.Module, ABC):
    """A collated batch of one modality to `Tokens`, and what masked modelling reconstructs for each of them.

    Built as `adapter(width, processor, **recipe keys)`; its keyword-only arguments are its recipe keys.
    """

    input_names: tuple[str, ...]
    """Names of the tensors that `forward` may read; unique to the modality. Where transformers has a name for one it is that."""
    keyword: str = ""
    """`Modality.keyword`, in an adapter that a model has built."""
    target_sizes: dict[str, int]
    """Outputs that a prediction head needs for each target: values of a float target, classes of an integer one."""
    sparse_target: bool = False
    """True if valid tokens may have nothing to predict (a missing cell); such tokens are never hidden."""
    has_identity: bool = False
    """True if its tokens carry an identity (`Tokens.identity`)."""
    apart: bool = False
    """True if its samples hold several sequences that never attend to each other (`Tokens.sequence`)."""
    overlapping: bool = False
    """True if the stem mixes neighbouring tokens, so that hidden content can reach visible ones: unsafe for raw targets."""

    patch: Patch | None = None
    """Where its one target is a grid of pieces of a picture: their layout."""
    aspects: dict[str, int] = {}  # noqa: RUF012 (set by instances)
    """What else can be said of each token, by name with its number of values: targets and codes may be made of it."""
    rendered_views: int = 0
    """Pictures of each sample that `render` makes; 0: none, its samples cannot be looked at from outside."""
    num_tokens: int | None = None
    """Tokens of every sample, if all have equally many, in the same order, which `pooling: concat` needs; None: samples differ."""

    pictured: bool = False
    """Whether `pictures` shows samples as pictures in colour, for encoders that know nothing else."""
    mixable: bool = False
    """Whether a weighted sum of two samples is a sample: then `continuous` says of which inputs."""
    axes: Mapping[str, Mapping[int, Axis]] = {}
    """By input name the axes, beside that of the samples, whose sizes may differ from batch to batch: exported graphs keep them."""
    point_dim: int = 0
    """Values of each point of float targets that are sets of points, whose order means nothing; 0: targets are no sets."""

    @abstractmethod
    def forward(self, inputs: Inputs) -> Tokens:
        """`[b, n, width]` tokens with their coordinates."""

    @abstractmethod
    def target(self, inputs: Inputs) -> dict[str, Tensor]:
        """What each token holds: per name a float `[b, n, t]` (NaN = nothing there) or an integer `[b, n]` (-100 = nothing there).

        Float targets are regressed, integer targets classified. Most modalities have one target; a table has a numeric and a
        categorical one.
        """

    def aspect(self, name: str, inputs: Inputs) -> Float[Tensor, "b n t"]:
        """One of `aspects` of every token (NaN = nothing there)."""
        raise LookupError(f"tokens of this modality have no aspect {name!r}; known ones: {', '.join(self.aspects) or 'none'}")

    def pictures(self, inputs: Inputs) -> list[Float[Tensor, "3 _ _"]]:
        """Samples as pictures whose colours are in [0, 1], where they are `pictured`."""
        raise LookupError("samples of this modality are no pictures")

    def continuous(self, inputs: Inputs) -> dict[str, Tensor]:
        """The inputs that may be mixed with those of another sample, where it is `mixable`: zero where a sample has nothing."""
        raise LookupError("samples of this modality cannot be mixed: a weighted sum of two of them is none")

    def made_up(self, count: int, size: int) -> Inputs:
        """Random inputs, named as `Processor.sized` names them: the largest of `count` samples has `size` units of each of `axes`.

        Others are smaller where the modality pads. A graph is exported by such, and checked on others.
        """
        raise NotImplementedError(
            f"{type(self).__name__} makes up no inputs, by which its graph could be checked: give it `made_up` and `axes`"
        )

    def places(self, length: int) -> int:
        """How many tokens a sample of so many steps has that lacks nothing: those that a head reads in a row."""
        raise LookupError("tokens of this modality cannot be read in a row: pool them (objective.reads: pooled)")

    def place(self, tokens: Tokens) -> Int[Tensor, "b n"]:
        """Which of `places` each token is."""
        raise LookupError("tokens of this modality cannot be read in a row: pool them (objective.reads: pooled)")

    def level(self, inputs: Inputs) -> Float[Tensor, "b 2"]:
        """Mean and standard deviation of what each sample holds, in its own units, of samples of one variable."""
        raise LookupError("samples of this modality have no level by which what follows could be told")

    dense: "Dense | None" = None
    """How labels of places, such as pixels or words, belong to its tokens; None: places have no labels of their own."""

    def render(self, inputs: Inputs, size: int) -> "Rendering":
        """Views of each sample from outside, as pictures of `size` pixels a side, where `rendered_views` says that there are."""
        raise NotImplementedError(f"{type(self).__name__} has no views of a sample from outside")


class Dense(ABC):
    """How labels of the places of a sample belong to its tokens: of the pixels of a picture, the words of a text, steps in time.

    shape: what transformers calls the task: map = semantic segmentation, sequence = token classification, steps = frame
        classification.
    labels: name of the tensor that holds class numbers, -100 where there is none; `Processor.labelled` makes it.
    """

    shape: Literal["map", "sequence", "steps"]
    labels: str

    def cells(self, detail: int) -> int:
        """Predictions of each token, where a side of it has `detail` of them. ValueError for more than there can be."""
        if detail != 1:
            raise ValueError(f"objective.detail: a token of this modality has one label; got {detail}. Leave it out")
        return 1

    @abstractmethod
    def laid_out(self, given: Float[Tensor, "b n _"], inputs: Inputs, detail: int) -> Float[Tensor, "b k *places"]:
        """What tokens say of each class, `k * cells(detail)` values each, as logits in the places that they are of."""

    def outputs(self, logits: Float[Tensor, "b k *places"], inputs: Inputs) -> Float[Tensor, "b k *more"]:
        """The same logits as a model gives them to whoever has no labels."""
        return logits

    @abstractmethod
    def at_labels(self, logits: Float[Tensor, "b k *places"], inputs: Inputs) -> Float[Tensor, "b k *more"]:
        """Logits at the places of the labels among the inputs."""

    @abstractmethod
    def answers(self, logits: Float[Tensor, "b k *places"], inputs: Inputs) -> list[Int[np.ndarray, "*whole"]]:
        """The most likely class of every place of each whole sample, as its labels were given; -1 where this says nothing.

        inputs: of `Processor.labelled` without labels.
        """

    def sureness(self, logits: Float[Tensor, "b k *places"], inputs: Inputs) -> list[Float[np.ndarray, "*whole"]]:
        """The probability of every class that `answers` gives, where places are steps in time."""
        raise ValueError(f"{type(self).__name__} tells no probabilities of places")

    @abstractmethod
    def of_tokens(self, inputs: Inputs) -> Int[Tensor, "b n"]:
        """The label of each token, of several the most frequent one; -100 for those without one."""


@dataclass(frozen=True)
class Others:
    """The samples of the whole optimizer step, from which donors come, however the step is cut into micro-batches.

    inputs: all of them, batched and padded. keys: of their draws. place: where in them each sample of the micro-batch lies.
    """

    inputs: Inputs
    keys: Int[Tensor, " p"]
    place: Int[Tensor, " b"]

    @classmethod
    def of(cls, inputs: Inputs, draws: Draws) -> "Others":
        """Those of a batch that is the whole step."""
        return cls(inputs, draws.keys, torch.arange(len(draws.keys), device=draws.keys.device))

    def fork(self, number: int) -> "Others":
        """The same samples with the draws of view `number`."""
        return replace(self, keys=Draws(self.keys).fork(number).keys)

    def donor(self, purpose: str, draws: Draws, *shape: int) -> Int[Tensor, "b ..."]:
        """For each sample of the micro-batch, whose draws are given, the place of another one; its own if it is the only one."""
        count = len(self.keys)
        own = self.place.view(-1, *[1] * len(shape))
        return (own + 1 + draws.integers(purpose, max(1, count - 1), *shape)) % count

    def map(self, move: Callable[[Tensor], Tensor]) -> "Others":
        """All tensors, moved."""
        return Others({name: move(x) for name, x in self.inputs.items()}, move(self.keys), move(self.place))


Augment = Callable[[Inputs, Draws], Inputs]
"""One random view of a batch of inputs; one that takes from other samples is `MixesSamples`."""


def check_range(key: str, smallest: str, found: Sequence[int | float] | None) -> None:
    """ValueError for a range in an augmentation's keys whose ends are exchanged."""
    if found is not None and found[0] > found[1]:
        raise ValueError(f"augment.{key} gives the smallest {smallest} first; got {list(found)}. Exchange the two")


@runtime_checkable
class MixesSamples(Protocol):
    """An augmentation whose view of a sample may hold something of others: donors, which come from the whole optimizer step."""

    @property
    def mixes(self) -> bool:
        """Whether it does with its settings."""

    def __call__(self, inputs: Inputs, draws: Draws, others: Others | None = None) -> Inputs:
        """One random view of a batch; `others` None: the batch is the whole step."""


def mixing(augment: Augment | None) -> TypeGuard[MixesSamples]:
    """Whether an augmentation takes from other samples, and is to be given them."""
    return isinstance(augment, MixesSamples) and augment.mixes


@runtime_checkable
class ReadsProcessor(Protocol):
    """An augmentation that has to know how its modality's samples were processed."""

    def with_processor(self, processor: Processor) -> Callable[[Inputs, Draws], Inputs]:
        """The augmentation of samples of this processor."""


@dataclass(frozen=True)
class Rendering:
    """Pictures of samples from outside, and where in each of them a token lies: for a model of pictures that helps to train.

    pictures: values in [0, 1], three channels, square. places: (x, y) in [-1, 1], as `torch.nn.functional.grid_sample` counts.
    """

    pictures: Float[Tensor, "b v 3 s s"]
    places: Float[Tensor, "b v n 2"]


@dataclass(frozen=True)
class MaskPreference:
    """How masked modelling hides tokens of a modality when the recipe does not say."""

    sampler: str
    ratio: float


@dataclass(frozen=True)
class Modality:
    """A plug-in.

    name: the recipe's and the entry point's name.
    keyword: the argument of `MMSSLProcessor.__call__`, plural where the field's convention is ("images").
    columns: column names looked for in a dataset when the recipe names none; empty: a raw sample is the whole row as a dict.
    augment: builds, from the recipe's keys, a function (batch inputs, draws) -> batch inputs: one random view, batched, on device;
        a `MixesSamples` where a view may hold something of other samples.
    example: (count, seed) -> raw samples that pass the laws of `mmssl.testing`.
    golden: () -> (settings of processor, settings of adapter, raw sample, expected coords [n, 4], expected targets): patch order.
    draw: (matplotlib axes, inputs, row, the processor of the inputs): draws one sample of a batch, in little space; None: samples
        cannot be looked at.
    sentence: what sentence-transformers calls it (text, image, audio, video), where it can feed it.
    picture: (inputs, hidden [b, n], predictions by target name, the processor of the inputs) -> a matplotlib figure of the input,
        what was seen and what was predicted, with the names and colours of the raw samples.
    suffixes: of files that hold one raw sample each, as ".wav" in lower case; a folder of them is a dataset, with the first of
        `columns` for its column.
    ambiguous: those of `suffixes` that files of anything may have, such as ".txt": a folder is read by them only if it holds no
        others.
    lined: those of `suffixes` of which a single file, or a file for each split, holds a raw sample in every line.
    arrays: whether an array in memory is a raw sample: then files of many arrays are read as its samples.
    strong: keys of augmentations that together do all they can, under which the laws look at views; one mapping for all that goes
        together, and more for what does not.
    public: the families of public encoders that its adapter can be, each a `mmssl.model.public.Family`.
    served: what a pipeline of transformers calls the processor of a model that reads this alone; None: there is none.
    tasks: the Hub's names for the classification and the regression of samples, where it has one.
    claim: some cells of each column of a table -> those that hold samples of it; None if there are none.
    suited: some raw samples -> values for keys of a recipe that are `auto`, by key below the modality (`processor.size`). Samples
        that cannot be read are passed over: the loader deals with them.
    """

    name: str
    keyword: str
    columns: tuple[str, ...]
    processor: type[Processor]
    adapter: Callable[..., Adapter]
    augment: Callable[..., Callable[[Inputs, Draws], Inputs]]
    mask: MaskPreference
    example: Callable[[int, int], list[Any]]
    golden: Callable[[], tuple[Mapping[str, Any], Mapping[str, Any], Any, Float[Tensor, "n 4"], dict[str, Tensor]]]
    picture: Callable[[Inputs, Bool[Tensor, "b n"], dict[str, Tensor], Any], Any]
    draw: Callable[[Any, Inputs, int, Any], None] | None = None
    sentence: str | None = None
    suffixes: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    lined: tuple[str, ...] = ()
    arrays: bool = False
    strong: Sequence[Mapping[str, Any]] = ()
    served: Literal["image_processor", "feature_extractor", "tokenizer"] | None = None
    tasks: Mapping[str, str] = field(default_factory=dict)
    public: Callable[[], Sequence[Any]] = tuple
    claim: Callable[[Mapping[str, Sequence[Any]]], Claim | None] = lambda columns: None
    suited: Callable[[Sequence[Any]], Mapping[str, Suited]] = lambda samples: {}

    def claimed(self, columns: Mapping[str, Sequence[Any]]) -> Claim | None:
        """What it would read of a table: a column that names its files, else what it knows by the cells; its own names come first.

        Files that may be anything, in a column that is called after another modality, are of that one.
        """
        columns = {name: columns[name] for name in sorted(columns, key=lambda name: name not in self.columns)}
        for name in columns:
            strange = (
                are_files(columns[name], self.ambiguous)
                and name not in self.columns
                and any(name in find(other).columns for other in installed())
            )
            if self.suffixes and are_files(columns[name], self.suffixes) and not strange:
                return Claim(name, 1.0, f"files, in column {name}")
        return self.claim(columns)

    def __post_init__(self) -> None:
        if wrong := [suffix for suffix in self.suffixes if not suffix.startswith(".") or suffix != suffix.lower()]:
            raise ValueError(f"suffixes of modality {self.name!r} are lower case with their dot, as '.wav'; got {', '.join(wrong)}")
        if strange := {*self.ambiguous, *self.lined} - {*self.suffixes}:
            raise ValueError(f"modality {self.name!r} calls {min(strange)} ambiguous or lined, which is none of its suffixes")
        if self.suffixes and not self.columns:
            raise ValueError(f"modality {self.name!r} has suffixes, but no column that its files could make; name it in `columns`")


@cache
def find(name: str) -> Modality:
    """Load the plug-in registered as `name`. LookupError if there is none."""
    if name not in points():
        known = ", ".join(installed()) or "none"
        raise LookupError(
            f"no modality named {name!r}; installed: {known}. If you just added it to setup.cfg, run `pip install -e .` again."
        )
    found = load(points()[name])
    if not isinstance(found, Modality):
        raise TypeError(
            f"entry point {points()[name].value!r} of modality {name!r} must be a mmssl.modality.Modality; "
            f"got {type(found).__name__}"
        )
    return found


def rebuilt(make: Callable[..., T], settings: Mapping[str, Any], where: str, *given: Any) -> T:
    """What `make` makes of settings that were saved. ValueError for those that it does not know: a newer mmssl wrote them.

    where: what they are settings of. given: what comes before them.
    """
    known = signature(make).parameters
    takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values())
    if not takes_any and (unknown := [key for key in settings if key not in known]):
        raise ValueError(
            f"the {where} was saved with {', '.join(unknown)}, which this version of mmssl does not know: the model is of a newer "
            "one. Update mmssl, as in pip install -U mmssl"
        )
    return make(*given, **settings)


def are_files(cells: Sequence[Any], suffixes: Sequence[str]) -> bool:
    """Whether all cells that are there name a file of such a suffix, as text or in a record {"path": ...}."""
    named = [cell.get("path") if isinstance(cell, Mapping) else cell for cell in cells if cell is not None]
    return bool(named) and all(isinstance(name, str) and name.lower().endswith(tuple(suffixes)) for name in named)


def readable(samples: Sequence[Any], read: Callable[[Any], T]) -> list[T]:
    """What is read of those raw samples that can be read."""
    found = []
    for raw in samples:
        try:
            found.append(read(raw))
        except (ValueError, TypeError, OSError):
            continue
    return found


def numbers_in_text(texts: Sequence[str]) -> bool:
    """Whether most texts are nothing but several numbers, as lists are written in cells of csv files, or series in lines."""
    return sum(_NUMBERS.fullmatch(text) is not None for text in texts) > len(texts) / 2


_NUMBERS = re.compile(r"\s*[\[(]?\s*[-+.\d][-+.\deE]*(?:[\s,;]+[-+.\d][-+.\deE]*)+[\s,;]*[\])]?\s*")


def pad_stack(tensors: Sequence[Tensor], value: float = 0) -> Tensor:
    """Stack tensors of one rank, padding every dimension at its end to the largest size with `value`."""
    if all(t.shape == tensors[0].shape for t in tensors):
        return torch.stack(list(tensors))
    shape = [max(t.shape[i] for t in tensors) for i in range(tensors[0].dim())]
    out = tensors[0].new_full((len(tensors), *shape), value)
    for row, tensor in zip(out, tensors, strict=True):
        row[tuple(slice(s) for s in tensor.shape)] = tensor
    return out


def pad_cat(tensors: Sequence[Tensor], value: float = 0.0) -> Tensor:
    """Join batched tensors along the first dimension, padding every other one at its end to the largest size with `value`."""
    if all(t.shape[1:] == tensors[0].shape[1:] for t in tensors):
        return torch.cat(list(tensors))
    shape = [max(t.shape[i] for t in tensors) for i in range(1, tensors[0].dim())]
    pads = [[pad for i in reversed(range(len(shape))) for pad in (0, shape[i] - t.shape[i + 1])] for t in tensors]
    return torch.cat([nn.functional.pad(t, pad, value=value) for t, pad in zip(tensors, pads, strict=True)])
