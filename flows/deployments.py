"""What the server is told of the flows: deployments with schedules from params.yaml, who hears of failures, runs that a dead process left."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from flows import server  # noqa: F401  before Prefect, which reads its settings at import

# isort: split
from prefect import Flow
from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.deployments.runner import RunnerDeployment
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.runner.storage import LocalStorage
from prefect.schedules import Cron, Schedule
from prefect.states import Crashed
from prefect.types.entrypoint import EntrypointType
from pydantic import SecretStr

from flows.deployed_flows import REPORTS, build, health, report
from flows.refresh_flow import refresh, settings_of
from provenlm.core.errors import UserError

WEBHOOK = "failures"
SAID = (
    '{"run": "{{ flow_run.name }}", "state": "{{ flow_run.state.name }}", "message": {{ (flow_run.state.message or "")|tojson }}}'
)


def deployments(pool: str | None) -> list[RunnerDeployment]:
    """All flows, `refresh` with a schedule for each report that names one; run by a worker of `pool`, or by who serves."""
    refreshed = {name: settings for name in REPORTS if (settings := settings_of(name)) is not None}
    schedules = [
        Cron(settings.cron, timezone="UTC", parameters={"report": name}, slug=name)
        for name, settings in refreshed.items()
        if settings.cron
    ]
    return [
        _deployment(build, "by hand", {"names": REPORTS[:1]}, pool),
        _deployment(report, "by hand", {"report": REPORTS[0]}, pool),
        _deployment(refresh, "scheduled", {"report": next(iter(refreshed), REPORTS[0])}, pool, schedules),
        _deployment(health, "by hand", {}, pool),
    ]


class Here(LocalStorage):
    """The folder in which a worker starts a run. Not told so, one in a container runs in a copy, and all it made ends with it."""

    def to_pull_step(self) -> dict[str, Any]:
        return {"prefect.deployments.steps.set_working_directory": {"directory": "."}}


def _deployment(
    flow: Flow[..., Any], tag: str, parameters: dict[str, Any], pool: str | None, schedules: Sequence[Schedule] = ()
) -> RunnerDeployment:
    """A worker starts in the folder of this checkout; that of another machine has its own `working_dir`, in the settings of its pool."""
    made = cast(
        RunnerDeployment,
        flow.to_deployment(
            flow.name,
            tags=[tag],
            description=(flow.description or "").partition("Args:")[0].strip(),  # the form has the rest
            parameters=parameters,
            schedules=list(schedules),
            work_pool_name=pool,
            job_variables={"working_dir": str(Path.cwd())} if pool else None,
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
    )
    made.storage = Here(".") if pool else None
    return made


def deploy(client: SyncPrefectClient, made: Sequence[RunnerDeployment], pool: str, template: Path | None = None) -> None:
    """Name `made` to the workers of `pool`, which is made if it is not there: as `template` says, or to start a process for each run.

    UserError if `template` is no template, or one of another type than the pool has.
    """
    jobs = _jobs(template) if template else {}
    kind = template.stem if template else "process"
    known = {known.name: known.type for known in client.read_work_pools()}
    if pool not in known:
        client.create_work_pool(WorkPoolCreate(name=pool, type=kind, base_job_template=jobs))
    elif template and known[pool] != kind:
        raise UserError(f"--template {template}: the pool {pool} is of type {known[pool]}, not {kind}; name another pool")
    elif template:
        client.update_work_pool(pool, WorkPoolUpdate(base_job_template=jobs))
    take_over(client, made)
    for deployment in made:
        deployment.apply()


def _jobs(template: Path) -> dict[str, Any]:
    try:
        said = json.loads(template.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--template {template}: {error}") from None
    if not isinstance(said, dict) or said.keys() != {"job_configuration", "variables"}:
        raise UserError(f"--template {template}: job_configuration and variables make a template, and nothing else")
    return said


def take_over(client: SyncPrefectClient, made: Sequence[RunnerDeployment]) -> None:
    """Forget deployments by the names of `made` that others run: a pool's, if they are to be served from here, or else what is served.

    Prefect leaves to the workers of a pool what was named to it once, and who serves a deployment goes on to run it by its id.
    """
    pooled = {deployment.name: deployment.work_pool_name is not None for deployment in made}
    for known in client.read_deployments():
        if known.name in pooled and (known.work_pool_name is not None) != pooled[known.name]:
            client.delete_deployment(known.id)


def forget_the_dead(client: SyncPrefectClient) -> Sequence[str]:
    """Runs that were going on when the process that served them ended, by name: they become Crashed. To be called before serving."""
    lost = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    ours = {deployment.id for deployment in client.read_deployments() if deployment.work_pool_name is None}
    runs = [
        run
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=lost)))
        if run.deployment_id in ours
    ]
    for run in runs:
        client.set_flow_run_state(run.id, Crashed(message="the process that served it ended; run it again, it goes on"), force=True)
    return [run.name for run in runs]


def tell(address: str) -> None:
    """An automation of Prefect that posts a line of JSON to `address` whenever a run fails or crashes."""
    block = Webhook(method="POST", url=SecretStr(address), allow_private_urls=True).save(WEBHOOK, overwrite=True)
    trigger = EventTrigger(
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        posture=Posture.Reactive,
        threshold=1,
    )
    wanted = Automation(name=WEBHOOK, trigger=trigger, actions=[CallWebhook(block_document_id=cast(UUID, block), payload=SAID)])
    with get_client(sync_client=True) as client:
        for old in client.read_automations_by_name(WEBHOOK):
            client.delete_automation(old.id)
    wanted.create()
