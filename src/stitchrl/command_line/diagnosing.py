"""The command `stitchrl diagnose`: what went wrong in a run that is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import stitchrl
from stitchrl.command_line.main_job import print_json, write_json
from stitchrl.command_line.options import AsJson, Config, Format, Quiet, SchemaFile, Version
from stitchrl.command_line.output_files import check_output_file
from stitchrl.command_line.policies import bundle_folder, learned_meaning, policy_of
from stitchrl.errors import CheckpointError, ConfigurationError

if TYPE_CHECKING:
    from stitchrl.data.dataset import Dataset
    from stitchrl.training.run import Run

__all__ = ["diagnose"]

# JAX and NumPy are imported inside the functions: `stitchrl --help` must not wait for them.


def diagnose(
    run: Annotated[
        Path, typer.Argument(help="A folder of `stitchrl run`, of `stitchrl train` or `st.fit`, or a policy directory.")
    ],
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            help="Log on whose episodes the policies are looked at; best are episodes that they did not learn from.",
        ),
    ] = None,
    newer: Annotated[
        Path | None, typer.Option("--newer", help="A log of later data, to be compared with the one of `--log`.")
    ] = None,
    schema: SchemaFile = None,
    format: Format = None,
    config: Config = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the diagnosis as JSON to this file as well.")] = None,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Name what went wrong in a run.

    Each failure stands with its number, the healthy range, the reason and the remedy. Without `--log` this is what the run
    itself recorded: the diagnosis of `stitchrl run`, or the metrics of training.
    """
    from stitchrl.progress import ProgressDisplay
    from stitchrl.reporting.diagnosis_terminal import print_diagnosis

    if newer is not None and log is None:
        raise ConfigurationError("`--newer` is compared with an earlier log, and none was given: name it with `--log`.")
    check_output_file("--out", out, ".json", log, newer, schema, run)
    if not run.exists():
        raise ConfigurationError(f"There is no run to diagnose: {str(run)!r} does not exist.")
    with ProgressDisplay(enabled=not quiet and not json):
        found = _diagnoses(run, log, newer, schema, format)
    content = next(iter(found.values())) if len(found) == 1 else found
    if out is not None:
        write_json(out, content)
    if json:
        print_json(content)
        return
    for k, one in enumerate(found.values()):
        if quiet:
            print(f"{one['title']}: {', '.join(f['code'] for f in one['findings']) or 'no failure found'}")
            continue
        if k:
            print()
        print_diagnosis(one)


def _diagnoses(
    run: Path, log: Path | None, newer: Path | None, schema: Path | None, format: str | None
) -> dict[str, dict[str, Any]]:
    """Label -> the plain content of a diagnosis, for everything in a folder."""
    from stitchrl.progress import LateProgress
    from stitchrl.storage.run_directory import load_json

    whole = (run / "run.json").is_file()
    if whole and log is None and (run / "diagnosis.json").is_file():
        found = load_json(run / "diagnosis.json")
        return {"selected": found["selected"], **found["candidates"]}
    meaning = learned_meaning(run)
    logs = [None if one is None else stitchrl.read(one, schema, format=format, policy=meaning) for one in (log, newer)]
    folders = sorted((run / "checkpoints").glob("*/")) if whole else [run] if (run / "config.json").is_file() else []
    # What changed between two logs is the same whichever policy is looked at: with several it is said of the selected one.
    several = whole and (run / "policy").is_dir()
    bar = (
        LateProgress("diagnosis", len(folders) + several, "runs/s")
        if len(folders) > 1 and logs[0] is not None
        else None
    )
    diagnosed = {}
    for done, folder in enumerate(folders, 1):
        newer_log = None if several else logs[1]
        diagnosed[folder.name] = stitchrl.diagnose(_run_of(folder), logs[0], newer=newer_log).to_dict()
        if bar is not None:
            bar(done)
    if several or not folders:
        if logs[0] is None and not folders:
            raise ConfigurationError(_nothing_to_read(run))
        if logs[0] is not None:
            diagnosed = {"selected": _policy_alone(run, logs[0], logs[1])} | diagnosed
    return diagnosed


def _nothing_to_read(run: Path) -> str:
    """Why nothing in a folder can be diagnosed without a log, and what to do."""
    if (bundle_folder(run) / "policy.json").is_file() or run.suffix == ".onnx":
        return f"{str(run)!r} holds a policy without the metrics of its training: name a log to look at it on with `--log`."
    if _unfinished(run):
        return _NOT_FINISHED.format(run)
    return (
        f"There is no run to diagnose in {str(run)!r}: it has no run.json, config.json or policy.json. Give a folder that "
        "`stitchrl run`, `stitchrl train` or `st.fit(out=)` made."
    )


_NOT_FINISHED = (
    "The run in '{}' has trained nothing yet, so there is nothing to diagnose. Give the command that started it again: it "
    "goes on from where it stopped."
)


def _unfinished(run: Path) -> bool:
    """Whether a folder is that of a run or race that was started, and holds neither a policy nor anything trained."""
    return (run / "run.json").is_file() or (run / "race.json").is_file()


def _run_of(folder: Path) -> Run:
    """The run in a folder of `st.fit`."""
    found = stitchrl.load(folder)
    if isinstance(found, stitchrl.Grid):
        raise ConfigurationError(
            f"{str(folder)!r} holds a grid; `st.diagnose` takes one of its runs: `for point, run in st.load(folder)`."
        )
    return found


def _policy_alone(path: Path, log: Dataset, newer: Dataset | None) -> dict[str, Any]:
    """The diagnosis of the policy that a path names."""
    try:
        policy = policy_of(path, log)
    except CheckpointError:
        raise ConfigurationError(
            _NOT_FINISHED.format(path)
            if _unfinished(path)
            else f"There is neither a run nor a policy to diagnose in {str(path)!r}. Give a folder that `stitchrl run`, "
            "`stitchrl train` or `st.fit(out=)` made."
        ) from None
    found = stitchrl.diagnose(policy, log, newer=newer).to_dict()
    title = getattr(policy, "provenance", {}).get("label", path.name)
    return found | {"title": f"the policy of {path.name} ({title})"}
