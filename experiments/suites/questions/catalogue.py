"""Every question, by the name that its runs are made under."""
# SPDX-License-Identifier: Apache-2.0

import pathlib

from experiments.suites.questions import (
    Question,
    adam_books,
    adam_candidates,
    adam_fresh,
    adam_llr,
    adam_mechanism,
    adam_refresh,
    adam_repeated,
    adam_small,
    adamw_fresh,
    adamw_options,
    adamw_repeated,
    adamw_two_rates,
    correction_adamw,
    correction_scion,
)

QUESTIONS: dict[str, Question] = {
    "adam-repeated": adam_repeated.QUESTION,
    "adamw-repeated": adamw_repeated.QUESTION,
    "adamw-two-rates": adamw_two_rates.QUESTION,
    "adam-fresh": adam_fresh.QUESTION,
    "adamw-fresh": adamw_fresh.QUESTION,
    "adam-books": adam_books.QUESTION,
    "adam-mechanism": adam_mechanism.QUESTION,
    "adam-refresh": adam_refresh.QUESTION,
    "adam-candidates": adam_candidates.QUESTION,
    "adam-llr": adam_llr.QUESTION,
    "adamw-options": adamw_options.QUESTION,
    "adam-small": adam_small.QUESTION,
    "correction-adamw": correction_adamw.QUESTION,
    "correction-scion": correction_scion.QUESTION,
}
"""`python -m experiments.suites NAME` makes the runs; `NAME-tuning` those that settings were chosen on."""


def file_of(name: str) -> pathlib.Path:
    """The file that states a question."""
    return pathlib.Path(__file__).with_name(f"{name.replace('-', '_')}.py")
