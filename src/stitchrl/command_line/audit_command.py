"""The command `stitchrl audit`: what is in a log, what is wrong with it, and with `--rank` which episodes harm most."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import stitchrl
from stitchrl.command_line.main_job import NOT_USABLE, print_json, write_json
from stitchrl.command_line.options import AsJson, Config, Format, Log, Quiet, SchemaFile, Version, names_in
from stitchrl.command_line.output_files import check_output_file
from stitchrl.errors import ConfigurationError

if TYPE_CHECKING:
    from stitchrl.data.dataset import Dataset
    from stitchrl.evaluation.episode_ranking import EpisodeRanking

__all__ = ["audit"]

SHOWN = 20
"""Episodes of a ranking that are described."""


def audit(
    log: Log,
    schema: SchemaFile = None,
    format: Format = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            help="Another part of the log, such as the test part: the audit says whether the two share episodes or rows.",
        ),
    ] = None,
    removed: Annotated[
        str | None,
        typer.Option(
            "--removed",
            help="Columns that the observation leaves out on purpose, separated by commas: the audit says whether it reveals "
            "them all the same.",
        ),
    ] = None,
    rank: Annotated[
        bool,
        typer.Option("--rank", help="Rank the episodes by the harm they do, and say what dropping them would change."),
    ] = False,
    rank_by: Annotated[
        str | None,
        typer.Option(
            "--rank-by",
            help="What episodes are ranked by. harm: how badly the other episodes predict this one; value: how far leaving it "
            "out moves the estimated value of what is done now; fit: how far leaving it out moves all fitted values. [default: "
            "harm]",
        ),
    ] = None,
    gamma: Annotated[
        float | None, typer.Option("--gamma", help="With --rank: the discount of the values. [default: the schema's]")
    ] = None,
    drop: Annotated[
        int | None,
        typer.Option(
            "--drop",
            help="How many of the worst episodes go into the drop list; what leaving out so many would change is shown too. "
            "[default: those that the ranking recommends]",
        ),
    ] = None,
    drop_list: Annotated[
        Path | None,
        typer.Option(
            "--drop-list",
            help="Write the worst episodes to this new file, name.json or name.csv. The log stays as it is; `stitchrl convert "
            "--without` leaves the listed episodes out.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            help="Seed of the random samples that are taken of a large log, and of the random parts of models in checks.",
        ),
    ] = 0,
    config: Config = None,
    quiet: Quiet = False,
    json: AsJson = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", help="Write the audit as a page with pictures to this file: one HTML file that opens offline."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the audit as JSON to this file as well.")] = None,
    version: Version = False,
) -> None:
    """Say what is in a log and what is wrong with it.

    Findings count rows from 0, in the order of episodes and steps. The exit status is 5 where the log is not usable.
    """
    from stitchrl.command_line.removed import log_and_removed
    from stitchrl.reporting.audit_terminal import print_audit

    for option, given in {"--rank-by": rank_by, "--gamma": gamma, "--drop": drop, "--drop-list": drop_list}.items():
        if given is not None and not rank:
            raise ConfigurationError(f"`{option}` belongs to a ranking of episodes. Add `--rank`, or leave it out.")
    if drop_list is not None:
        from stitchrl.reading.drop_list import check_drop_list_file

        check_drop_list_file(drop_list)  # refused before a long log is read
    check_output_file("--out", out, ".json", log, against, schema)
    check_output_file("--html", html, ".html", log, against, schema)
    if rank:
        from stitchrl.evaluation.episode_scores import ORDERS

        if rank_by is not None and rank_by not in ORDERS:
            raise ConfigurationError(f"`--rank-by` must be one of {', '.join(ORDERS)}; got {rank_by!r}.")
    if drop is not None and drop < 1:
        raise ConfigurationError(f"`--drop` must be at least 1, the number of episodes of the drop list; got {drop}.")
    data, left_out = log_and_removed(log, schema, format=format, removed=names_in(removed) or ())
    if drop is not None and 2 * drop >= data.num_episodes:
        raise ConfigurationError(
            f"`--drop` must be below half of the episodes, at most {(data.num_episodes - 1) // 2:,} of {data.num_episodes:,}; "
            f"got {drop:,}."
        )
    other = None if against is None else stitchrl.read(against, schema, format=format)
    found = stitchrl.audit(data, against=other, removed=left_out, seed=seed)
    if not json and not quiet:
        print_audit(found.to_dict())
    content: dict[str, Any] = found.to_dict()
    ranking = _ranking(data, rank_by or "harm", gamma, drop, seed, silent=quiet or json) if rank else None
    if ranking is not None:
        content["ranking"] = ranking.to_dict()
    if out is not None:
        write_json(out, content)
    if html is not None:
        from stitchrl.reporting.audit_page import render_audit
        from stitchrl.storage.files import write_text

        write_text(html, render_audit(content, title=log.name))
    if json:
        print_json(content)
    elif quiet:
        print(found.verdict)
    if ranking is not None:
        if not json and not quiet:
            from stitchrl.reporting.ranking_terminal import print_ranking

            print_ranking(content["ranking"])
        if drop_list is not None:
            _write(data, ranking, drop, drop_list, silent=quiet or json)
    if found.verdict == "not usable":
        raise typer.Exit(NOT_USABLE)


def _ranking(
    data: Dataset, by: str, gamma: float | None, drop: int | None, seed: int, *, silent: bool
) -> EpisodeRanking:
    """The ranking, with a sign of life while it is made."""
    from rich.console import Console

    from stitchrl.evaluation.episode_ranking import default_drops, rank_episodes

    drops = None if drop is None else [*default_drops(data), drop]
    wait = f"ranking {data.num_episodes:,} episodes"
    with nullcontext() if silent else Console(stderr=True).status(wait):
        return rank_episodes(data, by=by, gamma=gamma, drops=drops, shown=max(SHOWN, drop or 0), seed=seed)


def _write(data: Dataset, ranking: EpisodeRanking, drop: int | None, file: Path, *, silent: bool) -> None:
    """Write the drop list, and say what to do with it."""
    from stitchrl.reading.drop_list import write_drop_list

    episodes = ranking.drop_list(drop)
    if not episodes:
        raise ConfigurationError(
            "No drop list was written, because the ranking recommends none. Say how many of the worst episodes to list"
            + (f": `--drop {len(ranking.apart)}` lists those that stand apart." if ranking.apart else " with `--drop`.")
        )
    write_drop_list(
        file,
        episodes,
        reasons={one.episode: one.reason for one in ranking.worst},
        about={
            "log": data.schema.name,
            "log_content": data.content_hash,
            "ranked_by": ranking.by,
            "gamma": ranking.gamma,
            "warning": ranking.warning,
        },
    )
    if not silent:
        print(
            f"\n{file} lists the worst {len(episodes):,} episodes. Look each of them up, delete from the list those that are "
            f"correct, and leave the others out with\n  stitchrl convert LOG NEW --without {file}"
        )
