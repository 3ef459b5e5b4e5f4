"""`stitchrl lab`: builds the lessons, and opens, serves or exports them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stitchrl.command_line.main_job import print_json
from stitchrl.command_line.options import AsJson, Quiet, Version
from stitchrl.errors import ConfigurationError, RunDirectoryError

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer
    from socketserver import BaseRequestHandler

__all__ = ["lab"]


# The lessons import JAX and Altair: only inside the command, so that `stitchrl --help` need not wait for them.
def lab(
    lessons: Annotated[
        list[str] | None, typer.Argument(help="Names of lessons; `--list` prints them. [default: all]")
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="Write the pages to this folder, and open none.")
    ] = None,
    single: Annotated[
        bool,
        typer.Option(
            "--single",
            help="With --export: make each page hold everything that it needs, so that it can be sent alone.",
        ),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Serve the pages at http://127.0.0.1:PORT until Ctrl-C."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Print the names of the lessons, and build none.")] = False,
    quiet: Quiet = False,
    json: AsJson = False,
    version: Version = False,
) -> None:
    """Build the interactive lessons and open them in the browser.

    They need no network, and are built once for each version.
    """
    from stitchrl.lab.registry import LESSONS, check_name

    names = lessons or []
    for name in names:
        check_name(name)
    if single and export is None:
        raise ConfigurationError("`--single` says how pages are written; it needs `--export DIR`.")
    if export is not None and port is not None:
        raise ConfigurationError("`--export` writes the pages and `--port` serves them; give one of the two.")
    if listed:
        print_json({"lessons": list(LESSONS)}) if json else print("\n".join(LESSONS))
        return
    server = None if port is None else _bound(port)  # before the lessons are computed: a port in use is said at once
    pages = _built(export, names, single=single, quiet=quiet or json)
    first = pages[1] if len(names) == 1 else pages[0]
    if json:
        address = {} if server is None else {"address": _address(server, first)}
        print_json({"pages": [str(page) for page in pages], **address})
        sys.stdout.flush()  # a program that reads it must not wait for the end of the server
    elif export is not None:
        print(first)
    if server is not None:
        _serve(server, first, quiet=quiet or json)
    elif export is None and not json:
        _open(first)


def _built(export: Path | None, names: list[str], *, single: bool, quiet: bool) -> list[Path]:
    """The pages, with the progress of what has to be computed."""
    from stitchrl.lab.build import cache_folder
    from stitchrl.lab.build import export as write
    from stitchrl.progress import LateProgress, ProgressDisplay

    with ProgressDisplay(enabled=not quiet):
        bar: list[LateProgress] = []

        def done(built: int, total: int) -> None:
            if not bar and built < total:
                bar.append(LateProgress("lessons", total, "lessons/s"))
            if bar:
                bar[0](built)

        try:
            return write(export or cache_folder() / "pages", names, single=single, done=done)
        except RunDirectoryError as error:
            if export is not None:
                raise RunDirectoryError(str(error).replace("--out", "--export")) from None
            raise RunDirectoryError(
                f"The pages cannot be written to {str(cache_folder())!r}; write them elsewhere: stitchrl lab --export DIR"
            ) from None


def _open(page: Path) -> None:
    """Open a page in the browser, or say where it is."""
    import webbrowser

    try:
        opened = webbrowser.open(page.resolve().as_uri())
    except webbrowser.Error:
        opened = False
    if opened:
        print(page)
    else:
        print(f"No browser could be started here; open {page} yourself, or serve it: stitchrl lab --port 8000")


def _bound(port: int) -> ThreadingHTTPServer:
    """A server that holds the port, and serves nothing yet."""
    from http.server import ThreadingHTTPServer

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), _handler(Path()))
    except OSError as error:
        raise ConfigurationError(
            f"Port {port} cannot be used: {(error.strerror or str(error)).lower()}. Choose another --port."
        ) from None


def _serve(server: ThreadingHTTPServer, page: Path, *, quiet: bool) -> None:
    """Serve the folder of a page until Ctrl-C."""
    server.RequestHandlerClass = _handler(page.parent)
    if not quiet:
        print(f"{_address(server, page)} (stop with Ctrl-C)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()


def _address(server: ThreadingHTTPServer, page: Path) -> str:
    return f"http://127.0.0.1:{server.server_port}/{page.name}"


def _handler(folder: Path) -> type[BaseRequestHandler]:
    """What answers requests with the files of a folder, and prints nothing."""
    from http.server import SimpleHTTPRequestHandler

    class Files(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not printed."""

    return Files
