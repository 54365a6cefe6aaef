"""Measure everything on this machine's GPU, in stages of limited time: `make gpu`.

    python scripts/gpu.py [--output runs/gpu] [--minutes 8] [--small] [--only NAME ...] [--again]

Correctness of the kernels first (against float64, under compute-sanitizer), then times: `splat` in
every form, training, encode and decode, sampling, the partition. Each stage is a process of its
own with a time limit and leaves OUTPUT/NAME.json and NAME.log; stages whose results are there
already are not run again, so a run that was cut off goes on. At the end the tables of docs/ are
written, predictions beside measurements; `--tables` does only that. Needs JAX, Flax, Optax, Orbax
and NumPy; a checkout that is not installed will do. `--small` tries all of it out on a CPU.
"""

import argparse
import functools
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SMALL_PATIENCE = 5

from tests.gpu import runner, stages, stand_ins, tables  # noqa: E402


def main(words: list[str] | None = None) -> int:
    """Runs the program, or one of its stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the tables are")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all stages")
    parser.add_argument("--small", action="store_true", help="small limits, to try it on a CPU")
    parser.add_argument("--only", nargs="+", choices=stages.ALL, default=[*stages.ALL])
    parser.add_argument("--again", action="store_true", help="also what has been done")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    parser.add_argument("--stage", choices=[*stages.ALL, *stages.INNER], help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.stage:
        run_stage(args.stage, args.output, args.small)
        return 0
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is a file")
    if args.tables and not any(args.output.glob("*.json")):
        parser.error(f"--tables: {args.output} has no results")
    failed = 0 if args.tables else measure(args)
    if args.small:
        print("small figures go into no table")
    else:
        tables.write(args.output, args.docs)
    return 1 if failed else 0


def measure(args: argparse.Namespace) -> int:
    """Runs the stages that are asked for and not done; returns how many did not end well."""
    known = {} if args.again else runner.earlier(args.output)
    done = {name for name, outcome in known.items() if outcome.status == runner.DONE}
    wanted = [n for n in args.only if not (args.small and n in stages.NOT_SMALL)]
    todo = [planned(name, args) for name in wanted if name not in done]
    print(f"{len(todo)} stages, {len(done.intersection(wanted))} done before; {args.output}")
    seconds = 60 * args.minutes * (SMALL_PATIENCE if args.small else 1)
    say = functools.partial(print, flush=True)
    outcomes = runner.run_all(todo, args.output, seconds, say)
    return sum(outcome.status != runner.DONE for outcome in outcomes)


def planned(name: str, args: argparse.Namespace) -> runner.Stage:
    """A stage as a process of this program."""
    _, _, seconds, beside = stages.ALL[name]
    seconds *= SMALL_PATIENCE if args.small else 1  # a CPU compiles slowly, too
    command = [sys.executable, str(ROOT / "scripts" / "gpu.py"), "--stage", name]
    command += ["--output", str(args.output), *(["--small"] if args.small else [])]
    environment = {"PYTHONUNBUFFERED": "1"}
    if beside:  # several share the device's memory
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    return runner.Stage(name, tuple(command), seconds, beside, environment)


def run_stage(name: str, output: Path, small: bool) -> None:
    """Runs one stage in this process."""
    import_from_checkout()
    function, settings, _, _ = (stages.ALL | stages.INNER)[name]
    output.mkdir(parents=True, exist_ok=True)
    file = output / f"{name}.json"
    function(functools.partial(runner.write_json, file), small, **settings)


def import_from_checkout() -> None:
    """Makes the package importable as it lies here, installed or not, whatever it lacks."""
    import gpstoken_jax

    gpstoken_jax.__path__.append(str(ROOT))  # kernels/ and configs/ are at the root
    missing = stand_ins.install()
    print(json.dumps({"stand-ins for missing packages": missing}))


if __name__ == "__main__":
    sys.exit(main())
