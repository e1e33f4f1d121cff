"""What the words of a report mean, for those who read one for the first time."""

from collections.abc import Iterable

from mmssl.evaluation.table import BEHIND, CHANCE, FREQUENT, OWN, PRETRAINED, RANDOM, RAW, SCORES, TUNED

WORDS = {
    SCORES["probe"]: "accuracy of a linear classifier, or R2 of a ridge regression, on features of the model, which stays as it is",
    SCORES["knn"]: "the same by a vote of the 20 most similar training samples",
    PRETRAINED: "the model that this run trained, without labels",
    TUNED: "the model that this run trained with labels, by the features of its encoder",
    OWN: "what a model with labels predicts itself",
    BEHIND: "the model's features after its projector, which training compares",
    RANDOM: "the same network with random weights: what is not above this row has learned nothing of use",
    RAW: "what a linear model would be given of a sample without any network",
    CHANCE: "what guessing scores",
    FREQUENT: "what always naming the commonest class scores",
    "random convolutions": "series: fixed random filters and a ridge regression, without any training of the filters",
    "last value": "forecasts: the last value that was seen, for all steps",
    "mean of what was seen": "forecasts: the mean of the steps that were seen, for all steps",
    "ridge": "forecasts: a linear map of the steps that were seen, in units of their mean and deviation",
    "MSE": "mean squared error, in units of each variable's deviation over the training part: the lowest is the best",
    "MAE": "mean absolute error, in the same units",
    "mean IoU": "pixels: of each class, those that are it and are taken for it, over those that are or are taken for it; the mean",
    "macro F1": "words and steps: of each class the harmonic mean of precision and recall; the mean over classes",
    "most frequent class of each word": "words: the tag that each word mostly has in training, whatever stands around it",
    "TF-IDF of words": "texts: counts of words and pairs of words, and a linear model",
    "boosted trees": "tables: gradient boosting on the columns",
    "loss": "what training makes smaller; its height means little, its course a lot",
    "unexplained": "the loss over that of the best constant prediction: 1 is nothing learned, 0 is everything",
    "input_std": "how much samples differ where they enter the encoder; near 0 all are the same",
    "target_std": "how much the targets that a teacher gives differ; a fall to near 0 is a collapse",
    "target_sample_std": "the same between samples alone",
    "target_rank": "in how many directions the targets differ (effective rank)",
    "feature_std": "how much the compared vectors of samples differ; near 0 all are alike",
    "feature_rank": "in how many directions the pooled outputs differ (effective rank)",
    "prototypes_used": "to how many prototypes a teacher gives samples; near 1 is a collapse",
    "target_entropy": "how even a teacher's choice among prototypes is: at 1 it tells none apart",
    "momentum": "how much of the teacher stays as it is in a step; it follows the student by the rest",
    "teacher_left": "share of the teacher that is still the weights it began with",
    "logit_scale": "the learned factor on similarities, at most 100",
    "pairs": "rows of a step that hold both modalities",
    "grad_norm": "length of the gradient before clipping; leaps mean that the learning rate is too high",
    "lr": "learning rate",
    "samples_per_second": "speed of training",
}
"""Scores, rows and curves, by the names that they have in tables and metrics.jsonl."""


def explained(names: Iterable[str]) -> dict[str, str]:
    """The words among `names` that are known here, in the order of `WORDS`."""
    there = {*names}
    return {word: meaning for word, meaning in WORDS.items() if word in there}
