"""What any classifier has to beat: always the same label, and a logistic regression on counted words."""
# SPDX-License-Identifier: Apache-2.0

from typing import NamedTuple

import numpy as np
import threadpoolctl
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from experiments.data.labelled import LabelledText

INVERSE_PENALTIES = (0.1, 1.0, 10.0, 100.0)
"""Values of `C` that the validation split chooses from."""
MOST_WORDS = 50_000


class Baselines(NamedTuple):
    """Accuracies on the split that a finished model is scored on."""

    majority: float
    """Of the label that most texts of the split have: the best that a constant answer can do."""
    bag_of_words: float
    """Of the logistic regression."""
    bag_of_words_loss: float
    """Its mean cross-entropy in nats a text."""


def _counter(texts: list[str]) -> TfidfVectorizer:
    """What counts words of two letters or more; characters, where there are no such words."""
    words = TfidfVectorizer(max_features=MOST_WORDS, sublinear_tf=True)
    try:
        return words.fit(texts)
    except ValueError:  # an empty vocabulary
        return words.set_params(analyzer="char").fit(texts)


def measure(task: LabelledText) -> Baselines:
    """Fits the logistic regression on the train split, with the penalty that is best on the validation split.

    Args:
        task: The texts.

    Returns:
        How the baselines do.
    """
    texts = {split: [example.text for example in examples] for split, examples in task.splits.items()}
    labels = {split: np.array([example.label for example in examples]) for split, examples in task.splits.items()}
    words = _counter(texts["train"])
    counts = {"train": words.transform(texts["train"])}
    counts |= {split: words.transform(texts[split]) for split in texts if split != "train"}
    with threadpoolctl.threadpool_limits(1):  # the matrices are too small for several threads
        models = [
            LogisticRegression(C=penalty, tol=1e-3, max_iter=2000).fit(counts["train"], labels["train"])
            for penalty in INVERSE_PENALTIES
        ]
    best = max(models, key=lambda model: model.score(counts["validation"], labels["validation"]))
    scored, wanted = counts[task.scored], labels[task.scored]
    return Baselines(
        float(np.bincount(wanted).max() / len(wanted)),
        float(best.score(scored, wanted)),
        float(log_loss(wanted, best.predict_proba(scored), labels=best.classes_)),
    )
