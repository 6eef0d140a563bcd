"""Measures a configuration by running a command, without a shell."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autotune.command import output
from autotune.command.spec import CONFIG_FILE, PYTHON, SEED, WALL_TIME, CommandSpec, require_consistent
from autotune.command.template import Template
from autotune.errors import UsageError
from autotune.execution.process import Limits, SessionProcess, last_line
from autotune.measurement import Failure, FailureKind, Measurement, Metric
from autotune.reports import Pruned, Report

# Metrics are searched in the end of the output only, so that a command that prints without end costs no memory.
_KEEP_BYTES = 4 << 20


class UnusedParameterWarning(UserWarning):
    """A parameter is searched that the command never sees."""


class CommandEvaluator:
    """Runs the command of a specification; an evaluator for `autotune.search` that protects itself.

    Every run is a process in a session of its own. Its limits on time and memory apply to one run, and all that it
    started ends with it. ``wall_s``, from start to end, is a metric unless the command reports one of that name. The end
    of what the command printed is the log of the measurement or the failure.

    Raises:
        UsageError: before any trial, when a template does not fit the parameters or the command cannot be run.

    Warns:
        UnusedParameterWarning: when a parameter is in no template.
    """

    def __init__(self, spec: CommandSpec) -> None:
        require_consistent(spec)
        self.spec = spec
        self._groups = spec.groups()
        self._env = {name: Template.parse(text) for name, text in spec.env.items()}
        self._limits = Limits(spec.timeout_s, spec.memory_limit_gib)
        self._required = spec.required_metrics()
        placeholders = [one.name for _, template in spec.templates() for one in template.placeholders]
        self._writes_config = CONFIG_FILE in placeholders
        self._program_varies = any(one.name != PYTHON for one in self._groups[0][0].placeholders)
        if not spec.folder().is_dir():
            raise UsageError(f"cwd: {spec.folder()} is not a folder")
        path = self._env.get("PATH")
        if not self._program_varies and (path is None or not path.placeholders):
            self._find(self._groups[0][0].render({PYTHON: sys.executable}) or "", self._environment({}))
        if unused := spec.unused():
            warnings.warn(
                f"the command does not use {', '.join(unused)}; put {{{unused[0]}}} into the command, env or a "
                f"{{{CONFIG_FILE}}}, or drop the parameter",
                UnusedParameterWarning,
                stacklevel=2,
            )

    def __call__(self, config: Mapping[str, Any], *, seed: int = 0, report: Report | None = None) -> Measurement:
        """Run the command once.

        Args:
            report: told of lines of the output, on the stream of the metrics, that are reports (`output.reports_in`).

        Raises:
            Pruned: what `report` raised; the command is ended then.
            Failure: `timeout` and `oom` at the limits; what `exit_codes` says, else `crash`, for an exit code above 0, a
                signal or a missing metric; `nan` for a metric that is not finite; `infra` when no process can be started.
        """
        with self._values(config, seed) as values:
            process = self._start(values)
            try:
                if report is None:
                    process.supervise(process.exits_within, self._limits)
                else:
                    self._follow(process, report)
            except (Failure, Pruned) as ended:
                process.end()
                if isinstance(ended, Failure):
                    ended.add_note((process.stderr.text() or process.stdout.text())[-4096:])
                ended.log = process.log()
                raise
            finally:
                code = process.end()
        if code in self.spec.exit_codes:
            last = last_line(process.stderr.text()) or last_line(process.stdout.text())
            raise Failure(
                self.spec.exit_codes[code],
                f"the command exited with code {code}" + (f"; {last}" if last else ""),
                process.log(),
            )
        if code != 0:
            raise process.failure("the command", self._limits)
        log = process.log()
        try:
            return replace(self._read(process), log=log)
        except Failure as failure:
            failure.log = log
            raise

    def _follow(self, process: SessionProcess, report: Report) -> None:
        stream = process.stdout if self.spec.stream == "stdout" else process.stderr
        place, last = 0, -1

        def exits_within(seconds: float) -> bool:
            nonlocal place, last
            ended = process.exits_within(seconds)
            if ended:
                stream.join(timeout_s=1.0)
            lines, place = stream.lines_since(place)
            for step, values in output.reports_in(lines, last):
                last = step
                report(step, **values)
            return ended

        process.supervise(exits_within, self._limits)

    def described(self) -> dict[str, Any]:
        """The specification as JSON-able values, from which `CommandSpec.stored` makes it again."""
        found: dict[str, Any] = json.loads(self.spec.model_dump_json(exclude_unset=True))
        return found

    def argv(self, config: Mapping[str, Any], *, seed: int = 0, config_file: str = "config.json") -> list[str]:
        """The arguments for a configuration, without looking the program up."""
        return self._render(self._builtins(seed, config_file) | dict(config))

    def command_line(self, config: Mapping[str, Any]) -> str:
        """The command as one would type it into a shell, with the environment variables that it is given."""
        values = self._builtins(0, "config.json") | dict(config)
        variables = {name: template.render(values) for name, template in self._env.items()}
        assigned = [f"{name}={shlex.quote(text)}" for name, text in variables.items() if text is not None]
        return " ".join([*assigned, shlex.join(self._render(values))])

    @staticmethod
    def _builtins(seed: int, config_file: str) -> dict[str, Any]:
        return {SEED: seed, PYTHON: sys.executable, CONFIG_FILE: config_file}

    @contextlib.contextmanager
    def _values(self, config: Mapping[str, Any], seed: int) -> Iterator[dict[str, Any]]:
        if not self._writes_config:
            yield {**self._builtins(seed, ""), **config}
            return
        with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
            path = Path(folder) / "config.json"
            path.write_text(json.dumps(dict(config), default=_plain), encoding="utf-8")
            yield {**self._builtins(seed, str(path)), **config}

    def _render(self, values: Mapping[str, Any]) -> list[str]:
        argv: list[str] = []
        for group in self._groups:
            rendered = [template.render(values) for template in group]
            if None not in rendered:
                argv += [text for text in rendered if text is not None]
        return argv

    def _environment(self, values: Mapping[str, Any]) -> dict[str, str]:
        rendered = {name: template.render(values) for name, template in self._env.items()}
        return {**os.environ, **{name: text for name, text in rendered.items() if text is not None}}

    def _start(self, values: Mapping[str, Any]) -> SessionProcess:
        argv, environment = self._render(values), self._environment(values)
        if self._groups[0][0].render(values) is None:
            raise Failure(FailureKind.INVALID, "the program's name holds a parameter that is inactive")
        try:
            argv[0] = self._find(argv[0], environment)
            return SessionProcess(argv, env=environment, cwd=self.spec.folder(), keep_bytes=_KEEP_BYTES)
        except UsageError as error:
            if self._program_varies:
                raise Failure(FailureKind.CRASH, str(error)) from error
            raise
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                raise UsageError(
                    f"command: {argv[0]} is not a program; start a script with a line such as '#!/bin/sh'"
                ) from error
            raise Failure(FailureKind.INFRA, f"cannot start {argv[0]}: {error.strerror}") from error

    def _find(self, program: str, environment: Mapping[str, str]) -> str:
        """The program's absolute path, as a relative one means the command's folder and not the search's."""
        if "/" not in program:
            found = shutil.which(program, path=environment.get("PATH"))
            if found is None:
                raise UsageError(f"command: there is no program {program!r} on PATH; install it, or write its path")
            return str(Path(found).absolute())
        path = self.spec.folder() / program
        if not path.is_file():
            raise UsageError(
                f"command: there is no file {program} in {self.spec.folder()}; build it, or correct its path"
            )
        if not os.access(path, os.X_OK):
            raise UsageError(f"command: {path} is not executable; run chmod +x on it, or start it by its interpreter")
        return str(path)

    def _read(self, process: SessionProcess) -> Measurement:
        text = (process.stdout if self.spec.stream == "stdout" else process.stderr).text()
        metrics = {WALL_TIME: Metric(process.ended_s - process.started_s)}
        if isinstance(self.spec.metrics, dict):
            printed = output.from_patterns(text, self.spec.metrics, self._required)
        elif self.spec.metrics == "json" or self._required:
            printed = output.from_json(text, self._required)
        else:
            return Measurement(metrics)
        measured = Measurement({**metrics, **printed.metrics}, printed.notes)
        output.require(measured, self._required, text)
        return measured


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} has no JSON form")
