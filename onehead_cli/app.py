"""The Typer app. A domain error becomes one line on stderr and an exit code; here and nowhere else."""

from __future__ import annotations

import codecs
import sys
from typing import Annotated, Any

import typer

from onehead_cli import __version__
from onehead_cli.commands.evaluate import evaluate
from onehead_cli.commands.export import export
from onehead_cli.commands.flags import joined_lists
from onehead_cli.commands.predict import predict
from onehead_cli.commands.prepare_data import prepare_data
from onehead_cli.commands.profile import profile
from onehead_cli.commands.train_teacher import train_teacher
from onehead_cli.commands.train_unified import train_unified
from onehead_cli.errors import OneheadError
from onehead_cli.files.atomic import DISK_ERRORS
from onehead_cli.runtime import launch
from onehead_cli.runtime.signals import SIGNALS, leave_on_signals
from onehead_cli.runtime.streams import Output, accept_any_text
from onehead_cli.suggestion import did_you_mean
from onehead_cli.wording import shown

app = typer.Typer(
    name="onehead",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="One small network with one head for classification, segmentation and detection.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage or config, 10 a drop was found, 11 inconclusive (both only with "
    "evaluate --strict; 10 also if an export would lose accuracy), 130 and 143 stopped by a signal.",
)
app.command("prepare-data")(prepare_data)
app.command("train-teacher")(train_teacher)
app.command("train-unified")(train_unified)
app.command("evaluate")(evaluate)
app.command("profile")(profile)
app.command("predict")(predict)
app.command("export")(export)

# Typer carries its own copy of click from 0.24 on; its exported BadParameter leads to the right base class in both.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


_OUT_OF_MEMORY = "out of memory: lower --batch-size or --image-size"
#: How torch says it of the GPU and of the CPU, and how cuBLAS and cuDNN do.
_NO_MEMORY = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onehead {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with its code (`args` defaults to sys.argv)."""
    leave_on_signals()
    output = Output()
    code = run(args)
    if (problem := output.problem()) and code == 0:
        code = _fail(f"stdout: cannot be written ({problem})", 1)
    sys.exit(code)


def run(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    accept_any_text()
    try:
        arguments = joined_lists(sys.argv[1:] if args is None else args)
        code = typer.main.get_command(app).main(arguments, prog_name="onehead", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except OneheadError as error:
        return _fail(str(error), error.exit_code)
    except _UsageError as error:
        return _fail(" ".join(_explain_usage(error).split()), 2)
    except typer.Exit as done:
        return int(done.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("stopped by SIGINT", 130)
    except SystemExit as stopped:  # by a signal
        names = {128 + number: number.name for number in SIGNALS}
        if stopped.code not in names:
            raise
        return _fail(f"stopped by {names[stopped.code]}", stopped.code)
    except OSError as error:
        if error.errno in DISK_ERRORS:
            return _fail(f"{error.filename or 'output'}: cannot be written ({error.strerror})", 1)
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}", 1)
    except UnicodeEncodeError as error:
        encoding = codecs.lookup(sys.getfilesystemencoding()).name
        if encoding == "utf-8" or codecs.lookup(error.encoding).name != encoding:
            raise
        return _fail(f"{error.object}: no name in the encoding of this locale ({encoding}); set PYTHONUTF8=1", 1)
    except MemoryError:
        return _fail(_OUT_OF_MEMORY, 1)
    except RuntimeError as error:  # torch has no types for these
        message = str(error)
        if any(words in message for words in _NO_MEMORY):
            return _fail(_OUT_OF_MEMORY, 1)
        if "does not have a deterministic implementation" in message:
            return _fail(
                f"--deterministic: {message.split(' does not have')[0]} has no deterministic implementation "
                "on this device; leave --deterministic out, or train with --device cpu",
                1,
            )
        raise


def _fail(message: str, code: int) -> int:
    if launch.speaks():
        print(f"error: {shown(message)}", file=sys.stderr, flush=True)
    return code


def _explain_usage(error: Any) -> str:
    """click's message and, for an unknown option, command or choice, the nearest known one."""
    context, message = getattr(error, "ctx", None), str(error.format_message())
    if context is None:
        return message
    unknown = getattr(error, "option_name", None) or message.partition("'")[2].partition("'")[0]
    if str(error.message).startswith("No such option"):
        what, known = "option", [name for param in context.command.params for name in param.opts]
    elif str(error.message).startswith("No such command"):
        what, known = "command", list(getattr(context.command, "commands", {}))
    else:
        given, _, choices = str(error.message).partition(" is not one of ")
        found = did_you_mean(given.rpartition(" ")[2].strip("'"), choices.rstrip(".").replace("'", "").split(", "))
        return message.replace("Value error, ", "").rstrip(".") + (found if choices else "")
    return f"no such {what} '{unknown}'{did_you_mean(unknown, known) or f'; see {context.command_path} --help'}"
