"""The command ``nemo-prefect``."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from nemo_prefect.cli.run_command import add_run
from nemo_prefect.errors import NotFoundError

app = typer.Typer(
    name="nemo-prefect",
    help="Experiments on Prefect: look at them, cancel them, take them up again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
experiment = typer.Typer(help="Experiments: list, status, logs, cancel, resume, open.", no_args_is_help=True)
server = typer.Typer(help="The embedded Prefect server: start, status, stop, env.", no_args_is_help=True)
app.add_typer(experiment, name="experiment")
app.add_typer(server, name="server")
add_run(app)

out = Console()

AsJson = Annotated[bool, typer.Option("--json", help="Print data as JSON.")]
ExperimentId = Annotated[str, typer.Argument(help="The experiment's id, or a title, which means its newest run.")]
JobId = Annotated[str | None, typer.Argument(help="The job: its id, or its position, 0 for the first.")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command. Errors of this package end it with one paragraph on stderr and exit code 1."""
    from nemo_prefect.cli.command import run_app
    from nemo_prefect.cli.run_command import add_others

    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] and given[0] not in _own_commands() and given[0] != "--version":
        add_others(app)
    run_app(app, given, "nemo-prefect")


def _own_commands() -> set[str]:
    return {str(group.name) for group in app.registered_groups} | {
        command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands
    }


def _version(wanted: bool) -> None:
    if wanted:
        from nemo_prefect import __version__

        out.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)] = False,
) -> None: ...


@experiment.command("list")
def list_experiments(
    title: Annotated[str, typer.Argument(help="Only experiments of this title.")] = "", as_json: AsJson = False
) -> None:
    """List experiments: their titles, or with TITLE the ids of that title's runs."""
    from nemo_prefect import history

    found = history.ids(title) if title else history.titles()
    if as_json:
        _print_json(found)
        return
    if not found:
        out.print(f"No experiment has the title {title}." if title else "There are no experiments yet.")
    for name in found:
        out.print(name if title else f"{name}  ({len(history.ids_on_disk(name))} runs)", highlight=False, soft_wrap=True)


@experiment.command()
def status(exp_id: ExperimentId, as_json: AsJson = False) -> None:
    """Show where an experiment's jobs stand."""
    from nemo_prefect.terminal import status_table

    found = _resolve(exp_id)
    views = _history(found).views()
    if as_json:
        _print_json({view.id: view.to_dict() for view in views})
    else:
        out.print(status_table(found, views), crop=False)


@experiment.command()
def logs(
    exp_id: ExperimentId,
    job_id: JobId = None,
    regex: Annotated[str | None, typer.Option(help="Only lines in which this is found.")] = None,
    follow: Annotated[bool, typer.Option(help="Go on while the job runs.")] = True,
    as_json: AsJson = False,
) -> None:
    """Print a job's output; of the first job, if none is named."""
    history = _history(_resolve(exp_id))
    job = _job(history, job_id or "0")
    for unit, line in history.lines(job, regex, follow):
        if as_json:
            _print_json({"job": unit, "line": line}, indent=None)
        else:
            sys.stdout.write(f"{unit} {line}\n" if unit != job else f"{line}\n")
            sys.stdout.flush()


@experiment.command()
def cancel(
    exp_id: ExperimentId,
    job_id: JobId = None,
    all_: Annotated[bool, typer.Option("--all", help="Cancel every job.")] = False,
    as_json: AsJson = False,
) -> None:
    """End a job, or with --all every job, and wait until it ended."""
    if (job_id is None) != all_:
        raise typer.BadParameter("Name a job, or pass --all.")
    found = _resolve(exp_id)
    history = _history(found)
    job = None if job_id is None else _job(history, job_id)
    history.cancel(job)
    views = [v for v in history.views() if job is None or v.id == job or v.id.startswith(f"{job}/")]
    if as_json:
        _print_json({view.id: view.to_dict() for view in views})
        return
    for view in views:
        out.print(f"{view.id}: {view.state.describe()}", highlight=False)


@experiment.command()
def resume(
    exp_id: ExperimentId, detach: Annotated[bool, typer.Option(help="Leave it to a runner in the background.")] = False
) -> None:
    """Take up an experiment that nobody drives any more: adopt what runs, run what is left."""
    from nemo_prefect.experiment import Experiment

    Experiment.from_id(_resolve(exp_id)).resume(detach=detach)


@experiment.command()
def compare(
    old: Annotated[str, typer.Argument(help="The earlier experiment's id, or a title.")],
    new: Annotated[str, typer.Argument(help="The later one's.")],
    as_json: AsJson = False,
) -> None:
    """Show what differs between two experiments: configuration, code, durations, metrics."""
    from nemo_prefect.experiment import Experiment

    found = Experiment.from_id(_resolve(new)).compare(_resolve(old))
    if as_json:
        _print_json(found.to_dict())
    else:
        out.print(str(found), markup=False, highlight=False, soft_wrap=True)


@experiment.command("open")
def open_page(
    exp_id: ExperimentId,
    browser: Annotated[bool, typer.Option(help="Open a browser; else only print the link.")] = True,
    as_json: AsJson = False,
) -> None:
    """Open an experiment's page in the Prefect UI."""
    import webbrowser

    from nemo_prefect.server import connection

    found = _resolve(exp_id)
    flow_run_id = _history(found).flow_run_id
    if flow_run_id is None:
        raise NotFoundError(f"{found} has no page: it was never run.", hint="Run it first.")
    reached = connection()
    link = reached.flow_run_link(flow_run_id) if reached else ""
    if as_json:
        _print_json({"id": found, "flow_run_id": flow_run_id, "link": link})
    else:
        out.print(link, highlight=False, soft_wrap=True)
    if browser and not as_json:
        webbrowser.open(link)


Parameter = Annotated[
    list[str] | None, typer.Option("--param", "-p", help="A parameter: NAME=VALUE, the value in JSON or text.")
]
Cron = Annotated[str | None, typer.Option(help="When it runs, as cron has it: '0 3 * * *'.")]
Interval = Annotated[float | None, typer.Option(help="How often it runs, in seconds.")]
RRule = Annotated[str | None, typer.Option(help="When it runs, as an iCalendar rule: 'FREQ=WEEKLY;BYDAY=MO'.")]
FlowName = Annotated[str, typer.Argument(metavar="FILE:FLOW", help="The flow: a file and a name in it, or module:name.")]


@app.command()
def deploy(
    flow: FlowName,
    name: Annotated[str, typer.Option(help="The deployment's name.")] = "default",
    cron: Cron = None,
    interval: Interval = None,
    rrule: RRule = None,
    work_pool: Annotated[str | None, typer.Option(help="Whose workers run it; by default the process pool local.")] = None,
    param: Parameter = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag of its runs.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Let its schedule wait until it is switched on.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a flow on the server as a deployment, with a schedule if one is given."""
    from nemo_prefect import deploying

    loaded = deploying.load(flow)
    options = _deployment_options(cron, interval, rrule, param, tag, paused)
    deployment_id = deploying.deploy(loaded, name, work_pool, **options)
    full = f"{loaded.name}/{name}"
    if as_json:
        _print_json({"id": str(deployment_id), "name": full, "work_pool": work_pool or deploying.DEFAULT_POOL})
        return
    pool = work_pool or deploying.DEFAULT_POOL
    out.print(f"Deployed {full}. Run it:   prefect deployment run '{full}'", highlight=False, soft_wrap=True)
    out.print(f"Let a worker do so:        prefect worker start --pool {pool}", highlight=False, soft_wrap=True)
    if not _uses_named_server():
        out.print(
            'With the embedded server:  eval "$(nemo-prefect server env)" comes first', highlight=False, soft_wrap=True
        )


@app.command()
def serve(
    flow: FlowName,
    name: Annotated[str, typer.Option(help="The deployment's name.")] = "default",
    cron: Cron = None,
    interval: Interval = None,
    rrule: RRule = None,
    param: Parameter = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag of its runs.")] = None,
    limit: Annotated[int | None, typer.Option(help="How many runs at a time, at most.")] = None,
) -> None:
    """Run a flow's scheduled and requested runs from here, until Ctrl-C; no worker is needed."""
    from nemo_prefect import deploying

    options = _deployment_options(cron, interval, rrule, param, tag, False)
    deploying.serve(deploying.load(flow), name, limit=limit, **options)


def _deployment_options(
    cron: str | None,
    interval: float | None,
    rrule: str | None,
    param: list[str] | None,
    tag: list[str] | None,
    paused: bool,
) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for given in param or []:
        key, found, value = given.partition("=")
        if not found:
            raise typer.BadParameter(f"{given!r} is not NAME=VALUE.")
        try:
            parameters[key] = json.loads(value)
        except ValueError:
            parameters[key] = value
    schedule = {k: v for k, v in {"cron": cron, "interval": interval, "rrule": rrule}.items() if v is not None}
    return {**schedule, "parameters": parameters, "tags": tag or [], "paused": paused}


def _uses_named_server() -> bool:
    from prefect.settings import get_current_settings

    return bool(get_current_settings().api.url)


@server.command("start")
def start_server(as_json: AsJson = False) -> None:
    """Start the embedded server, if it does not run."""
    from nemo_prefect.server import EmbeddedServer
    from nemo_prefect.server.sign_in import link

    record = EmbeddedServer().start()
    if as_json:
        _print_json({"running": True, "url": record.url, "api_url": record.api_url, "pid": record.pid, "host": record.host})
    else:
        out.print(f"The server runs. UI: {link(record.url, record.auth)}", highlight=False, soft_wrap=True)


@server.command("status")
def server_status(as_json: AsJson = False) -> None:
    """Say whether the embedded server runs, and where. Exit code 1 where it does not."""
    from nemo_prefect.server import EmbeddedServer
    from nemo_prefect.server.embedded import healthy

    embedded = EmbeddedServer()
    record = embedded.find()
    state = "does not run" if record is None else "runs" if healthy(record) else "runs, but does not answer"
    if as_json:
        where = {"url": record.url, "api_url": record.api_url, "pid": record.pid, "host": record.host} if record else {}
        _print_json({"running": record is not None, "state": state, **where, "log": str(embedded.log)})
    else:
        where_text = f" at {record.url} (process {record.pid})" if record else ""
        out.print(f"The embedded server {state}{where_text}. Its log: {embedded.log}", highlight=False, soft_wrap=True)
    if record is None:
        raise typer.Exit(1)


@server.command("stop")
def stop_server(as_json: AsJson = False) -> None:
    """Stop the embedded server. Jobs that run go on; their runners wait for it to come back."""
    from nemo_prefect.server import EmbeddedServer

    stopped = EmbeddedServer().stop()
    if as_json:
        _print_json({"stopped": stopped})
    else:
        out.print("The server has stopped." if stopped else "The server did not run.")


@server.command("env")
def server_env() -> None:
    """Print what makes Prefect's own commands use the embedded server: eval "$(nemo-prefect server env)"."""
    from nemo_prefect.server import EmbeddedServer
    from nemo_prefect.shell import exports

    record = EmbeddedServer().start()
    sys.stdout.write(exports({"PREFECT_API_URL": record.api_url, "PREFECT_API_AUTH_STRING": record.auth}))


@app.command()
def doctor(
    cluster: Annotated[str, typer.Argument(help="Look at a cluster as seen from here instead: slurm or docker.")] = "",
    as_json: AsJson = False,
) -> None:
    """Check the installation, the server and the executors, and say what to do. Exit code 1 where something is wrong."""
    from nemo_prefect.doctor import examine

    findings = examine(cluster)
    if as_json:
        _print_json([finding.to_dict() for finding in findings])
    else:
        table = Table(box=None, padding=(0, 2), show_header=False)
        for finding in findings:
            mark = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "error": "[red]error[/red]"}
            table.add_row(mark[finding.level], f"[bold]{finding.subject}[/bold]", f"{finding.said} {finding.hint}".strip())
        out.print(table)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def _resolve(exp_id: str) -> str:
    """An experiment's id from what was typed: an id, or a title, which means its newest run."""
    from nemo_prefect import history

    if found := history.ids_on_disk(exp_id):
        return found[-1]
    return exp_id


def _history(exp_id: str) -> Any:
    from nemo_prefect.history import open_history

    return open_history(exp_id)


def _job(history: Any, job: str) -> str:
    """A job's id from what was typed: an id, or a position."""
    ids = [view.id for view in history.views()]
    top = list(dict.fromkeys(i.split("/")[0] if history.spec is not None else i for i in ids))
    if job not in ids and job.isdigit() and int(job) < len(top):
        return str(top[int(job)])
    return job


def _print_json(data: Any, indent: int | None = 2) -> None:
    sys.stdout.write(json.dumps(data, indent=indent, default=str) + "\n")
