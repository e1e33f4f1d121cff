"""Counting words: what a text encoder has to beat."""

from collections.abc import Callable
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

from mmssl.modality import Reference

STRENGTH = 10.0
"""scikit-learn's C of the logistic regression."""


def counted_words(read: Callable[[Any], str]) -> Reference:
    """TF-IDF of words and pairs of words, then logistic or ridge regression. read: the text of a raw sample."""

    def estimator(classes: bool, seed: int) -> Any:
        linear = LogisticRegression(C=STRENGTH, max_iter=1000) if classes else Ridge()
        return make_pipeline(TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True), linear)

    return Reference("TF-IDF of words", read, estimator)
