"""Every question, by the name that its runs are made under."""
# SPDX-License-Identifier: Apache-2.0

import pathlib

from experiments.suites.questions import Question, adam_repeated, correction_adamw, correction_scion

QUESTIONS: dict[str, Question] = {
    "adam-repeated": adam_repeated.QUESTION,
    "correction-adamw": correction_adamw.QUESTION,
    "correction-scion": correction_scion.QUESTION,
}
"""`python -m experiments.suites NAME` makes the runs; `NAME-tuning` those that settings were chosen on."""


def file_of(name: str) -> pathlib.Path:
    """The file that states a question."""
    return pathlib.Path(__file__).with_name(f"{name.replace('-', '_')}.py")
