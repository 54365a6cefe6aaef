"""The frame of every program: flags, help, errors without tracebacks.

Nothing here imports JAX before the flags are parsed, so that ``--help`` answers at once. Programs
do the same: they import what takes a second inside ``main``, or with ``etils.epy.lazy_imports``.
"""

import atexit
import contextlib
import difflib
import importlib.util
import itertools
import os
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from gpstoken_jax.runtime import buckets
from gpstoken_jax.runtime.files import TEMPORARY_SUFFIX
from gpstoken_jax.runtime.huge_pages import use_huge_pages
from gpstoken_jax.runtime.text import printable_output

FLAGS = flags.FLAGS
_HOME = re.compile(r"(?<![^,=])~[\w.-]*/")
_NAMED = re.compile(r"^[\w.-]+=(?=\w+:/)")  # of NAME=PLACE
_BUCKET_FIELDS = frozenset(  # of configs: places that may be in a bucket
    {"data.folder", "data.list", "data.tars", "data.parquet", "data.tfds_dir", "data.tokens"}
    | {"data.val_tokens", "data.layouts", "data.val_layouts", "init.source", "tokenizer"}
)
_DATA_FIELDS = ("folder", "list", "tars", "parquet", "tfds_name", "tfds_dir")
_FLAG_WORDS = {  # for Python's and absl's own
    r"flag (--\S+)=None: Flag --\S+ must have a value other than None\.": r"\1 is missing",
    r": invalid literal for int\(\) .*": ": this is no whole number",
    r": could not convert string to float: .*": ": this is no number",
    r": \('Non-boolean argument to boolean flag', .*": ": this is neither true nor false",
}
_CONFIG_FLAGS = ("config", "data", "eval")  # with fields, as --config.train.steps
HELP_FLAGS = ("--help", "-help", "-h", "--helpshort", "--helpfull", "--helpxml")


def asks_for_help() -> bool:
    """Tells whether the command line has ``--help``, which is answered without any of the work."""
    return any(argument.split("=")[0] in HELP_FLAGS for argument in sys.argv[1:])


def define_data_flags() -> flags.FlagHolder:
    """Defines ``--data.folder`` and the other fields that name data."""
    return define_fields(
        "data",
        ConfigDict({name: placeholder(str) for name in _DATA_FIELDS}),
        "Where the images are: a folder, a list of files, or a TFDS data set by directory or name.",
    )


def define_fields(name: str, fields: ConfigDict, help_text: str) -> flags.FlagHolder:
    """Defines ``--NAME.FIELD`` flags, which ml_collections takes from the command line now."""
    try:
        return config_flags.DEFINE_config_dict(name, fields, help_text)
    except (AttributeError, KeyError) as error:
        _exit_for(error, sys.argv)


def apply_flags(section: ConfigDict, given: ConfigDict) -> None:
    """Overrides the fields of a config section that were given as flags."""
    section.update({name: value for name, value in given.items() if value is not None})


def allow_buckets(*names: str) -> None:
    """Marks flags whose place may be in a bucket; all others are refused one, see ``run``."""
    for name in names:
        FLAGS[name].in_bucket = True


def define_process_flags() -> None:
    """Defines ``--coordinator``, ``--num_processes`` and ``--process_id``; ``run`` heeds them."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0, to run as one of several processes; by itself in several tasks of "
        "SLURM's srun or Open MPI's mpirun; 'auto' asks for that, 'none' stays alone.",
    )
    flags.DEFINE_integer("num_processes", None, "How many processes there are.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def define_share_flag() -> flags.FlagHolder:
    """Defines ``--share``, for ``processes.share_of_array``."""
    return flags.DEFINE_string(
        "share",
        None,
        "I/N: make share I, from 0, of N; tasks of a SLURM array know theirs. All write into one "
        "--output, and the last one finishes it.",
    )


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, in the user's cache directory.

    ``JAX_COMPILATION_CACHE_DIR`` names another directory; empty, it switches the cache off. Where
    there is no place for it, as without a home, there is none.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = cache / "gpstoken_jax" / "xla"
        cache.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # read-only, or a user that the system does not know
        logging.info("compiled programs are not kept: %s", error)
        return
    if os.access(cache, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(cache))


def find_temporary_directory(arguments: list[str]) -> None:
    """Puts temporary files beside the results where nothing else can be written to.

    As in a container whose root is read-only. Some libraries cannot be imported without a place.
    """
    try:
        tempfile.gettempdir()
        return
    except FileNotFoundError:
        pass
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = argument.partition("=")
        if name.lstrip("-") in ("workdir", "output"):
            place = Path(value if equals else following or "").absolute()
            place = next(path for path in (place, *place.parents) if path.is_dir())
            with contextlib.suppress(OSError):
                made = tempfile.mkdtemp(TEMPORARY_SUFFIX, ".", place)
                atexit.register(shutil.rmtree, made, ignore_errors=True)
                tempfile.tempdir = os.environ["TMPDIR"] = made


def user_errors() -> tuple[type[Exception], ...]:
    """Lists the errors that are mistakes of input: their message is all that a user needs."""
    from gpstoken_jax.data.loader import UnreadableDataError
    from gpstoken_jax.runtime.checkpoint import CheckpointError
    from gpstoken_jax.runtime.processes import ProcessError

    return (
        CheckpointError, UnreadableDataError, ProcessError, ValueError, OSError, FloatingPointError,
    )  # fmt: skip


def run(
    main: Callable[..., int | None], *, takes_arguments: bool = False, in_buckets: bool = False
) -> None:
    """Parses flags, joins the other processes if there are any, runs ``main`` and exits.

    Arguments that are no flags are given to ``main`` as a list, if it takes them; they may be in
    buckets if that is said. Its result is the exit code; a user's mistake becomes one line and exit
    code 1, one in the flags one line and exit code 2. ``--help`` prints all flags and the fields of
    the config.
    """
    if not asks_for_help():
        use_huge_pages()
    find_temporary_directory(sys.argv)
    if asks_for_help():
        print_help(describe_program(sys.argv))
        sys.exit(0)
    logging.use_absl_handler()  # while stderr is what other handlers, that it replaces, know
    with printable_output(logging.get_absl_handler()):
        app.run(
            lambda arguments: _guarded(partial(main, arguments[1:]) if takes_arguments else main),
            flags_parser=partial(
                _parse_flags, takes_arguments=takes_arguments, in_buckets=in_buckets
            ),
        )


def print_help(text: str) -> None:
    """Prints to whoever is still reading: ``| head`` may have seen enough."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more


def expand_home(argument: str) -> str:
    """Puts the home directory in place of ``~/`` in a flag's value, as shells do not after ``=``.

    Args:
      argument: ``--NAME=VALUE``, or anything else. The value may be a list of paths, or of
        NAME=PATH.

    Raises:
      ValueError: if there is no home directory.
    """
    name, equals, value = argument.partition("=")
    if not name.startswith("-"):
        return argument

    def expand(match: re.Match) -> str:
        try:
            return str(Path(match[0]).expanduser()) + "/"
        except RuntimeError as error:
            raise ValueError(
                f"{argument}: the system knows no home directory for {match[0]}: give the whole "
                "path, or set HOME"
            ) from error

    return name + equals + _HOME.sub(expand, value)


def _parse_flags(arguments: list[str], *, takes_arguments: bool, in_buckets: bool) -> list[str]:
    try:
        rest = FLAGS([arguments[0], *map(expand_home, arguments[1:])])
        for name in _CONFIG_FLAGS:
            if name in FLAGS and FLAGS[name].value is not None:
                FLAGS[name].value.keys()  # a config file that could not be read says so only now
        _check_places(rest[1:], in_buckets)
    except Exception as error:  # absl, ml_collections and a config file each raise their own kinds
        told = flags.Error | ValueError | OSError | AttributeError | TypeError
        if not (isinstance(error, told) or _wrong_field(error, arguments)):
            raise
        _exit_for(error, arguments)
    if len(rest) > 1 and not takes_arguments:
        print(f"error: unexpected argument {rest[1]!r}; flags start with --", file=sys.stderr)
        sys.exit(2)
    return rest


def _check_places(arguments: list[str], in_buckets: bool = False) -> None:
    """Checks every value with a scheme, such as s3://, before it becomes a local folder's name.

    Raises:
      ValueError: if the flag's place must be on a local disk, or the other is not to be had.
    """
    given = [(f"--{flag.name}", flag.value, hasattr(flag, "in_bucket")) for flag in _own_flags()]
    given += [("an argument", arguments, in_buckets)]
    for name in {"config", "data"} & {*FLAGS}:
        fields = flatten(FLAGS[name].value or ConfigDict(), f"{name}.")
        given += [(f"--{n}", value, n.partition("config.")[2] or n) for n, value in fields]
    for name, value, allowed in given:
        for text in value if isinstance(value, list | tuple) else [value]:
            place = _NAMED.sub("", str(text))
            if not buckets.is_url(place):
                continue
            if not (allowed is True or allowed in _BUCKET_FIELDS):
                raise ValueError(
                    f"{name}: {place} is in no file system of this machine, where this must be: "
                    "copy it, and give a local path"
                )
            buckets.check_url(place)


def _own_flags() -> list[flags.Flag]:
    """Flags of this project with a value of text, but for configs."""
    return [
        flag
        for module, some in FLAGS.flags_by_module_dict().items()
        for flag in some
        if not module.startswith(("absl", "ml_collections"))
        and flag.name not in ("config", "data")
        and "." not in flag.name
    ]


def _exit_for(error: Exception, arguments: list[str]) -> NoReturn:
    print(f"error: {_flag_mistake(error, arguments)}", file=sys.stderr)
    sys.exit(2)


def _flag_mistake(error: Exception, arguments: Sequence[str] = ()) -> str:
    """One line on what is wrong with the flags."""
    message = " ".join(str(error).replace("\\n", " ").replace("\\'", "'").split())
    for pattern, words in _FLAG_WORDS.items():
        message = re.sub(pattern, words, message)
    message = message.strip("'\"")
    message = message.partition("earlier failure to load:")[2].strip() or message
    if wrong := _wrong_field(error, arguments):
        near = re.search(r'Did you mean "(\w+)"', message)
        message = f"there is no field {wrong}" + (f"; did you mean {near[1]}?" if near else "")
    names = getattr(error, "flagname", None)
    if isinstance(error, flags.UnrecognizedFlagError) and names:
        near = difflib.get_close_matches(names, list(FLAGS), n=1)
        message = f"there is no flag --{names}" + (f"; did you mean --{near[0]}?" if near else "")
    return f"{message}  (--help lists all flags)"


def _wrong_field(error: Exception, arguments: Sequence[str]) -> str | None:
    """The field of a config that there is not; the error names the last part of it only."""
    if not isinstance(error, KeyError | AttributeError):
        return None
    parts = set(re.findall(r"\w+", str(error).partition("Did you mean")[0]))
    given = [argument.lstrip("-").partition("=")[0].split(".") for argument in arguments]
    wrong = (path for path in given if path[0] in _CONFIG_FLAGS and parts & {*path[1:]})
    return ".".join(next(wrong, ())) or None


def _guarded(main: Callable[[], int | None]) -> int | None:
    import jax

    from gpstoken_jax.runtime import processes

    logging.set_verbosity(logging.WARNING)
    use_compilation_cache()
    expected = user_errors()
    try:
        if "coordinator" in FLAGS:
            processes.join(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
        with processes.only_first_prints():
            return main()
    except (*expected, jax.errors.JaxRuntimeError) as error:
        gone = processes.means_another_is_gone(error)
        if logging.level_debug() or not (gone or isinstance(error, expected)):
            raise
        reason = "another process is gone, look at its messages" if gone else str(error)
        reason = buckets.as_given(reason)
        print(f"{processes.name_of_this()}error: {reason}", file=sys.stderr, flush=True)
        return processes.leave(processes.EXIT_CODE_OTHER_GONE if gone else 1)


# ---- Help ---------------------------------------------------------------------------------------


def describe_program(arguments: list[str]) -> str:
    """Describes the main program: what it does, its flags by group, every field of its config."""
    main = sys.modules["__main__"]
    parts = [(main.__doc__ or "").strip()]
    own = FLAGS.get_flags_for_module(main)
    parts += _group("Flags", [flag for flag in own if flag.name not in ("config", "data")])
    for title, section in (("Data", "data"), ("Instead of what the config says", "eval")):
        if section in FLAGS:
            parts += _section_help(title, section)
    here = FLAGS.flags_by_module_dict().get(__name__, [])
    here = [flag for flag in here if flag.name.partition(".")[0] not in _CONFIG_FLAGS]
    parts += _group("Several processes", here)
    if "config" in FLAGS:
        parts += _config_help(arguments)
    return "\n".join(parts)


def _group(title: str, members: list[Any]) -> Iterator[str]:
    if not members:
        return
    yield f"\n{title}\n"
    for flag in sorted(members, key=lambda flag: flag.name):
        kind = flag.flag_type().replace("multi ", "").replace("string enum", "one of")
        if hasattr(flag, "enum_values") and flag.enum_values:
            kind = "|".join(flag.enum_values)
        yield _entry(f"--{flag.name}", kind, _need(flag), flag.help or "")


def _need(flag: Any) -> str:
    needed = any("other than None" in validator.message for validator in flag.validators)
    return "required" if needed else f"default: {flag.default}"


def _entry(name: str, kind: str, default: str, text: str) -> str:
    head = f"  {name}  {kind}  ({default})"
    body = textwrap.fill(
        " ".join(text.split()), 96, initial_indent="      ", subsequent_indent="      "
    )
    return f"{head}\n{body}" if body.strip() else head


def _section_help(title: str, section: str) -> Iterator[str]:
    """A section of a config whose fields are flags: --data.folder."""
    yield f"\n{title}\n"
    fields = FLAGS[section].value
    for name in fields or ():
        kind, field = fields.get_type(name).__name__, f"{section}.{name}"
        yield _entry(f"--{field}", kind, "default: None", _describe_field(field))


def _config_help(arguments: list[str]) -> Iterator[str]:
    given = [a.partition("=")[2] for a in arguments if a.split("=")[0] in ("--config", "-config")]
    path = given[0] if given else str(_configs() / "common.py")
    yield "\nConfig\n"
    flag = FLAGS["config"]
    yield _entry("--config", "file", _need(flag), f"{flag.help} With :ARGUMENT if it has one.")
    yield f"\nFields of {path}, each a flag: --config.NAME=VALUE\n"
    for name, value in flatten(_read_config(path)):
        kind = "path or text" if value is None else type(value).__name__
        yield f"  {name}  {kind}  (default: {value!r})\n      {_describe_field(name)}"


def _describe_field(name: str) -> str:
    return _load("gpstoken_jax.configs.fields", _configs() / "fields.py").describe(name)


def flatten(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Lists the fields of a config by dotted name."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _configs() -> Path:
    return Path(importlib.util.find_spec("gpstoken_jax.configs").origin).parent


def _read_config(path: str) -> ConfigDict:
    file, _, argument = path.partition(":")
    module = _load("_config_to_describe", Path(file))
    return module.get_config(argument) if argument else module.get_config()


def _load(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
