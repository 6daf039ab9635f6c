"""Commands for existing runs: report, predict, chat, export, onboard, serve."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fedlease.cli.shared import Client, Device, Json, MethodName, Quiet, RunFolder, app, progress, stdout_for_json

__all__ = ["chat", "export", "onboard", "predict", "report", "serve"]


@app.command()
def report(
    folder: RunFolder,
    pictures: Annotated[Path | None, typer.Option(help="Also write the figures as SVG into this folder.")] = None,
) -> None:
    """Rewrite report.html, a page that explains the run (or compare.html, for a comparison) and needs no network."""
    from fedlease.reporting.run.page import write_pictures, write_report

    typer.echo(str(write_report(folder)))
    for path in write_pictures(folder, pictures) if pictures is not None else ():
        typer.echo(str(path))


@app.command()
def predict(
    folder: RunFolder,
    file: Annotated[Path, typer.Argument(help="JSONL, CSV or Parquet with the run's text columns; - reads stdin.")],
    client: Client,
    out: Annotated[Path | None, typer.Option(help="A new .jsonl or .csv file; default: standard output.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Also write the scores to this new file, as JSON.")] = None,
    method: MethodName = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Predict labels and probabilities, or generate answers, with a client's model; score a file that has labels."""
    with stdout_for_json(True), progress(quiet, folder) as show:
        from rich.console import Console

        from fedlease.reporting.file_scores import render_file_scores
        from fedlease.use.file_scores import FileScores
        from fedlease.use.open_run import OpenRun
        from fedlease.use.predict import predict_file

        found: list[FileScores] = []
        run = OpenRun(folder, method, device)
        text = predict_file(run, client, file, out, lambda done, total: show(client, done, total), scores, found.append)
    typer.echo(text if out is None else str(out), nl=out is not None)
    for scored in found:
        render_file_scores(scored.content, Console(stderr=True))


@app.command()
def chat(
    folder: RunFolder,
    client: Client,
    system: Annotated[str | None, typer.Option(help="Text of a system message.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer; default: the run's.", min=1)] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Answer every line without the lines before it.")] = False,
    method: MethodName = None,
    device: Device = None,
) -> None:
    """Talk to a client's language model: every line is a message, /reset starts again, /quit or Ctrl-D ends."""
    with progress(False, folder):
        from fedlease.use.chat import Chat, talk
        from fedlease.use.open_run import OpenRun

        run = OpenRun(folder, method, device)
    talk(Chat(run, client, system=system, max_new_tokens=max_new_tokens, remember=not forget))


@app.command()
def export(
    folder: RunFolder,
    out: Annotated[Path, typer.Argument(help="A new folder.", metavar="OUT")],
    client: Annotated[str | None, typer.Option("--client", metavar="ID", help="Export this client's model.")] = None,
    expert: Annotated[int | None, typer.Option("--expert", metavar="K", help="Export this expert.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Export every expert and every client.")] = False,
    form: Annotated[
        Literal["adapter", "merged"], typer.Option(help="adapter: plain LoRA; merged: a client's whole model.")
    ] = "adapter",
    mixture: Annotated[
        Literal["folded", "own"], typer.Option(help="folded: a client's experts as one adapter; own: its own expert.")
    ] = "folded",
    rank: Annotated[int | None, typer.Option(help="Rank of a folded adapter; default: experts x r.")] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="ID", help="Hub id of a base that the run loaded from a folder.")
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push-to-hub", metavar="REPO", help="Then upload OUT to this hub repository.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new hub repository public; default: private.")
    ] = False,
    scores: Annotated[bool, typer.Option("--scores/--no-scores", help="Score on the rows of the run.")] = True,
    method: MethodName = None,
    device: Device = None,
) -> None:
    """Export models as plain LoRA or merged into the base, with model card and measured scores."""
    from fedlease.errors import ConfigError

    if sum((client is not None, expert is not None, everything)) != 1:
        raise ConfigError("export: exactly one of --client, --expert and --all is needed")
    if public and push is None:
        raise ConfigError("--public: is only for --push-to-hub")
    stdout = sys.stdout
    with stdout_for_json(True), progress(False, folder):
        from fedlease.use.calls import export as write
        from fedlease.use.hub import check_push
        from fedlease.use.hub import push as upload

        if push is not None:
            check_push(push)
        which: dict[str, Any] = {"client": client, "expert": expert, "form": form, "mixture": mixture, "rank": rank}
        write(folder, out, **which, base=base, scores=scores, method=method, device=device)
        typer.echo(str(out), file=stdout)
        if push is not None:
            typer.echo(upload(push, out, private=not public), file=stdout)


@app.command()
def onboard(
    folder: RunFolder,
    client: Annotated[str, typer.Option("--client", metavar="ID", help="The newcomer's id.")],
    data: Annotated[Path, typer.Option(help="Its folder with train and test files, or one file.")],
    epochs: Annotated[
        int | None, typer.Option(help="Passes of local training; default: as many as in the run.")
    ] = None,
    device: Device = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Bring a new client into a finished run: place it, train it locally, and compare scores."""
    with stdout_for_json(json_), progress(quiet, folder) as show:
        from fedlease.use.onboard import onboard as bring_in
        from fedlease.use.open_run import OpenRun

        run = OpenRun(folder, device=device)
        found = bring_in(run, client, data, epochs, lambda phase, done, total, _: show(phase, done, total))
    text = (found.folder / "onboarding.json").read_text(encoding="utf-8")
    if json_:
        typer.echo(text, nl=False)
        return
    from rich.console import Console

    from fedlease.reporting.formats import print_note
    from fedlease.reporting.results import render_onboarding

    console = Console()
    for note in found.notes:
        print_note(console, note)
    render_onboarding(json.loads(text), console)


@app.command()
def serve(
    folder: RunFolder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    max_body: Annotated[int, typer.Option(help="Largest request, in bytes.", min=1)] = 1_000_000,
    max_rows: Annotated[int, typer.Option(help="Most rows in a request.", min=1)] = 256,
    max_batch: Annotated[int, typer.Option(help="Most rows computed together.", min=1)] = 64,
    wait_ms: Annotated[float, typer.Option(help="How long a batch waits for more rows, in milliseconds.", min=0)] = 5.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer that may be requested.", min=1)] = 1024,
    token_file: Annotated[
        Path | None, typer.Option(help="YAML or JSON with a token per client id, or '*'; default: no authentication.")
    ] = None,
    access_log: Annotated[
        str | None, typer.Option(metavar="FILE", help="Append a line per request to FILE, without rows; - is stderr.")
    ] = None,
    method: MethodName = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Serve every client's model over HTTP: labels of rows, or chats in the format of OpenAI's API."""
    with progress(quiet, folder):
        from fedlease.use.serving.requests import Limits
        from fedlease.use.serving.serve import serve as listen

    limits = Limits(max_body, max_rows, max_batch, wait_ms, max_new_tokens=max_new_tokens)
    listen(
        folder,
        host=host,
        port=port,
        method=method,
        device=device,
        limits=limits,
        quiet=quiet,
        token_file=token_file,
        access_log=access_log,
    )
