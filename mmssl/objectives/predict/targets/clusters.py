"""Codes by k-means, first of the content and later of what the model itself makes of it: HuBERT, WavLM."""

from collections.abc import Sequence
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mmssl.data.processes import gather_rows
from mmssl.draws import Draws, keys
from mmssl.model import MMSSLModel
from mmssl.model.config import Positive
from mmssl.objectives.networks import Clock, Networks, Snapshot
from mmssl.objectives.predict.distances import Loss
from mmssl.objectives.predict.parts import Answer, Outline, Scene, Target, anything, moved
from mmssl.objectives.predict.targets.kmeans import fit_residual, residual
from mmssl.objectives.predict.targets.random_codes import used
from mmssl.objectives.predict.targets.vectors import Vectors, content_of, content_sizes, counted_of
from mmssl.objectives.terms import State, Weight

ITERATIONS = 50
"""Most iterations of k-means."""
Start = Annotated[float, Field(gt=0, lt=1)]


class Codebooks(nn.Module):
    """The codebooks of all stages of one modality, and the sample of vectors from which the next ones are made.

    All of it is state, so that a resumed run makes the same codes.
    """

    def __init__(self, widths: Sequence[int], codes: Sequence[int], codebooks: int, sample: int) -> None:
        super().__init__()
        self.widths = widths
        for stage, (width, count) in enumerate(zip(widths, codes, strict=True)):
            self.register_buffer(f"centroids_{stage}", torch.zeros(codebooks, count, width))
        self.register_buffer("sample", torch.zeros(sample, max(widths)))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("stage", torch.tensor(-1))
        self.register_buffer("done", torch.tensor(-1))
        self.sample: Tensor
        self.filled: Tensor
        self.stage: Tensor
        """The stage whose codes are predicted; -1 before the first batch."""
        self.done: Tensor
        """The last stage whose codebooks were made from a whole sample."""

    def centroids(self, stage: int) -> Float[Tensor, "r k w"]:
        """The codebooks of a stage."""
        return self.get_buffer(f"centroids_{stage}")

    def collect(self, vectors: Float[Tensor, "n w"]) -> None:
        """Put vectors into the sample until it is full."""
        start = int(self.filled)
        new = vectors[: len(self.sample) - start]
        self.sample[start : start + len(new), : new.shape[1]] = new
        self.filled += len(new)

    def begin(self, vectors: Float[Tensor, "n w"]) -> None:
        """Codebooks of the first stage from the first batch alone, so that there is something to predict."""
        self.make(0, vectors, again=False)
        self.stage.fill_(0)

    def make(self, stage: int, vectors: Float[Tensor, "n w"], *, again: bool) -> None:
        """Codebooks of a stage by k-means; `again`: from those that it has, so that codes keep their meaning."""
        centroids = self.centroids(stage)
        uniform = Draws(keys(0, stage, torch.zeros(1, dtype=torch.int64))).uniform("clusters", *centroids.shape[:2])[0]
        start = centroids.cpu() if again else None
        centroids.copy_(fit_residual(vectors.float().cpu(), start, uniform, ITERATIONS))

    def finish(self) -> None:
        """Make the codebooks that the sample is for, once it is full."""
        if int(self.filled) < len(self.sample):
            return
        stage = int(self.done) + 1
        self.make(stage, self.sample[:, : self.widths[stage]], again=int(self.stage) == stage)
        self.stage.fill_(stage)
        self.done.fill_(stage)
        self.filled.zero_()
        self.sample.zero_()


class Clusters(Target):
    """Codes of tokens by k-means, made anew between stages of the training: HuBERT (arXiv 2106.07447), WavLM (arXiv 2110.13900).

    The first stage clusters what tokens hold, each later one the outputs of a layer of the model as it is when the stage begins,
    normalised within each token (HuBERT's code does not). What tokens hold is clustered as it is, so that of cepstral values the
    first ones decide, as there. HuBERT starts a new model for each stage; here the model goes on, with a new head. Codebooks are
    made from a sample of the tokens that come by: the codes of a stage count from when its sample is full, and until then those of
    the stage before; the very first ones are from one batch, and move when the first sample is full.

    of: what the first stage clusters: null = the content of a token, or the name of an aspect that the modality offers.
    codes: clusters in each stage.
    layers: layer, counted from 1 at the bottom, whose outputs each later stage clusters.
    starts: share of the budget at which each later stage begins.
    codebooks: codebooks in a row, each of what those before it leave; all are predicted at once, as the codes of a residual vector
        quantiser are in MERT (arXiv 2306.00107).
    sample: tokens from which codebooks are made.
    loss: distance between prediction and target; null: cross-entropy.
    weight: factor on its loss.
    """

    raw = False  # as random_codes

    def __init__(
        self,
        *,
        of: str | None = None,
        codes: list[Annotated[int, Field(gt=1)]] | None = None,
        layers: list[Positive] | None = None,
        starts: list[Start] | None = None,
        codebooks: Positive = 1,
        sample: Positive = 10_000,
        loss: Loss | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(loss, weight)
        self.of, self.codebooks, self.sample = of, codebooks, sample
        self.codes, self.layers, self.starts = codes or [100], layers or [], starts or []
        if not len(self.codes) - 1 == len(self.layers) == len(self.starts):
            raise ValueError(
                "codes has an entry for every stage, layers and starts for every stage but the first; got "
                f"{len(self.codes)}, {len(self.layers)} and {len(self.starts)}"
            )
        if self.starts != sorted(self.starts):
            raise ValueError(f"starts must ascend, as stages follow each other; got {self.starts}")

    def prepare(self, networks: Networks, modalities: Sequence[str]) -> None:
        model = networks.student
        depth = len(model.encoder.layers)
        if self.layers and max(self.layers) > depth:
            raise ValueError(
                f"objective.targets: clusters takes layer {max(self.layers)}, but the encoder has {depth}; lower layers"
            )
        sets = {name: 0 if self.of else model.adapter(name).point_dim for name in modalities}
        sizes = {name: content_sizes(model, name, self.of) for name in modalities}
        parts = {name: Vectors(sizes[name], sets[name], standardise=False) for name in modalities}
        self.vectors = nn.ModuleDict(parts)
        later = [model.config.hidden_size] * len(self.layers)
        self.books = nn.ModuleDict(
            {name: Codebooks([part.width, *later], self.codes, self.codebooks, self.sample) for name, part in parts.items()}
        )
        self.snapshots = [networks.want(f"snapshot_{start}".replace(".", "_"), Snapshot(start)) for start in self.starts]

    def renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        found = moved(state, {f"snapshots.{i}": name for i, name in enumerate(self.snapshots)}, ("due",))
        taken = {f"networks.taken_{name}": i < state["due"] for i, name in enumerate(self.snapshots) if "due" in state}
        return found | taken

    def part(self, stage: int, book: int) -> str:
        """The name of a part of the target."""
        return f"codes_{stage + 1}_{book + 1}"

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {self.part(stage, book): count for stage, count in enumerate(self.codes) for book in range(self.codebooks)}

    @torch.no_grad()
    def forward(self, scene: Scene) -> Answer:
        books, content = cast(Codebooks, self.books[scene.name]), content_of(scene, self.of)
        there, stage = anything(content), max(0, int(books.stage))
        vectors = self.read(stage, scene).flatten(0, 1)
        codes = residual(vectors, books.centroids(stage)).view(-1, *there.shape).masked_fill(~there, -100)
        metrics = {"codes_used": used(codes[0][there], self.codes[stage]), "stage": State(books.stage.float() + 1)}
        nothing = torch.full_like(codes[0], -100)
        found = dict.fromkeys(self.sizes(scene.model, scene.name), nothing)
        return Answer(found | {self.part(stage, book): row for book, row in enumerate(codes)}, metrics=metrics)

    def outline(self, scene: Scene) -> Outline:
        there = anything(content_of(scene, self.of))
        stage = max(0, int(cast(Codebooks, self.books[scene.name]).stage))
        now = {self.part(stage, book) for book in range(self.codebooks)}
        return Outline({part: there if part in now else torch.zeros_like(there) for part in self.sizes(scene.model, scene.name)})

    def observes(self, name: str, clock: Clock) -> bool:
        """Whether the sample is being filled from which the codebooks of a stage that is due will be made."""
        due = sum(clock.progress >= start for start in self.starts)
        return int(cast(Codebooks, self.books[name]).done) < due or not cast(Vectors, self.vectors[name]).fitted

    @torch.no_grad()
    def observe(self, scenes: Sequence[Scene]) -> None:
        """Put the tokens of a step into the sample of the stage whose codebooks are to be made."""
        name = scenes[0].name
        books, vectors = cast(Codebooks, self.books[name]), cast(Vectors, self.vectors[name])
        if not vectors.fitted:
            vectors.fit([counted_of(scene, self.of) for scene in scenes])
        found = [anything(content_of(scene, self.of)) & scene.counts for scene in scenes]
        if int(books.stage) < 0:
            first = gather_rows(torch.cat([self.read(0, scene)[there] for scene, there in zip(scenes, found, strict=True)]))
            if len(first):
                books.begin(first)
        stage = int(books.done) + 1
        books.collect(gather_rows(torch.cat([self.read(stage, scene)[there] for scene, there in zip(scenes, found, strict=True)])))

    def read(self, stage: int, scene: Scene) -> Float[Tensor, "b n w"]:
        """What the codes of a stage are made of."""
        if stage:
            return self.features(stage, scene)
        vectors: Tensor = self.vectors[scene.name](content_of(scene, self.of))
        return vectors

    def features(self, stage: int, scene: Scene) -> Float[Tensor, "b n d"]:
        """Outputs of the layer of a stage, by the model as it was when the stage began."""
        network = self.snapshots[stage - 1]
        tokens, encoder = scene.embedded(network), scene.networks[network].encoder
        count = len(encoder.layers) - self.layers[stage - 1] + 1
        output = encoder.layer_outputs(tokens, count)[0].tail(tokens.values.shape[1])
        return F.layer_norm(output.values.float(), output.values.shape[-1:])

    @torch.no_grad()
    def after_step(self, clock: Clock) -> None:
        for books in self.books.values():
            cast(Codebooks, books).finish()
