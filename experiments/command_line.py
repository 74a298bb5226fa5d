"""The command line of programs that start runs: `PRESET --option value ...`."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import tyro

from experiments.config import RunConfig
from experiments.methods import METHODS, with_settings

_METHOD = "--optimizer.method"

Parameters = ParamSpec("Parameters")
AnyConfig = TypeVar("AnyConfig", bound=RunConfig)


class Preset(NamedTuple):
    """A run with a name: where options start from."""

    about: str
    """What it is, and in further lines its command, its cost and the score to expect."""
    config: Any


def ends_in_a_line(main: Callable[Parameters, int]) -> Callable[Parameters, int]:
    """Has a program end in a line, and not in a traceback, where a file or a folder is at fault, or at Ctrl-C.

    Args:
        main: Returns the exit code; the codes are those of docs/reliability.md.
    """

    @functools.wraps(main)
    def wrapped(*args: Parameters.args, **named: Parameters.kwargs) -> int:
        try:
            return main(*args, **named)
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            return 130

    return wrapped


def choose_preset(
    presets: Mapping[str, Preset], kind: type[AnyConfig], args: Sequence[str] | None, prog: str
) -> AnyConfig:
    """Parses `PRESET --option value ...`; `--help` lists the presets, `PRESET --help` the options and their meaning.

    The options of the optimizer are those of its method. `--optimizer.method NAME` chooses another one, which keeps the
    preset's values where it has the same options.

    Args:
        presets: Runs by name.
        kind: The class of their configs.
        args: The words of the command line; None takes the process's.
        prog: The command, for the help.

    Returns:
        The preset with the options' values, and `~` in its paths expanded: a shell leaves it in `--workdir=~/run` as it
        is. A mistake ends the process with exit code 2.
    """
    words = list(sys.argv[1:] if args is None else args)
    method, words = _take_method(words, prog)
    choices = {
        name: (
            preset.about,
            dataclasses.replace(preset.config, optimizer=with_settings(preset.config.optimizer, method)),
        )
        for name, preset in presets.items()
    }
    description = (
        f"Choose a preset; `{prog} PRESET --help` lists its options, those of the optimizer for its method. "
        f"{_METHOD} chooses another method: {', '.join(METHODS)}."
    )
    try:
        config: AnyConfig = tyro.extras.overridable_config_cli(
            choices, prog=prog, description=description, args=words, config=(tyro.conf.AvoidSubcommands,)
        )
    except ValueError as error:
        _end(prog, str(error))
    if not isinstance(config, kind):
        raise TypeError(f"presets of {prog} must be {kind.__name__}, not {type(config).__name__}")
    return expand_paths(config)


def _take_method(words: list[str], prog: str) -> tuple[str | None, list[str]]:
    """The value of the last `--optimizer.method`, if there is one, and the words without it."""
    method, rest, remaining = None, [], iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        if option.replace("_", "-") != _METHOD:
            rest.append(word)
            continue
        method = value if equals else next(remaining, "")
        if method not in METHODS:
            _end(prog, f"{_METHOD} {method}: choose one of {', '.join(METHODS)}.")
    return method, rest


def _end(prog: str, message: str) -> Any:
    """Ends the process as argparse does."""
    print(f"{prog}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def expand_paths(settings: Any) -> Any:
    """The dataclass with `~` expanded in every path, those of nested dataclasses included."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, pathlib.Path):
            changes[field.name] = value.expanduser()
        elif dataclasses.is_dataclass(value):
            changes[field.name] = expand_paths(value)
    return dataclasses.replace(settings, **changes)
