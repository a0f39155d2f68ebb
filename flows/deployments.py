"""Register flows with the Prefect server: deployments and schedules.

Also create the failure webhook and mark crashed runs.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from flows import server  # noqa: F401  imported before Prefect, which reads its settings at import

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

from flows.build import REPORTS, build, report, status
from flows.refresh import load_refresh_config, refresh
from provenlm.core.errors import ConfigError

FAILURE_WEBHOOK = "failures"
FAILURE_PAYLOAD = (
    '{"run": "{{ flow_run.name }}", "state": "{{ flow_run.state.name }}", "message": {{ (flow_run.state.message or "")|tojson }}}'
)


def build_deployments(pool: str | None) -> list[RunnerDeployment]:
    """Return deployments of all flows, for `pool` or for the serving process.

    `refresh` gets a schedule for each report whose `schedule.cron` is set.
    """
    refresh_configs = {name: refresh_config for name in REPORTS if (refresh_config := load_refresh_config(name)) is not None}
    schedules = [
        Cron(refresh_config.cron, timezone="UTC", parameters={"report": name}, slug=name)
        for name, refresh_config in refresh_configs.items()
        if refresh_config.cron
    ]
    return [
        _make_deployment(build, "manual", {"names": REPORTS[:1]}, pool),
        _make_deployment(report, "manual", {"report": REPORTS[0]}, pool),
        _make_deployment(refresh, "scheduled", {"report": next(iter(refresh_configs), REPORTS[0])}, pool, schedules),
        _make_deployment(status, "manual", {}, pool),
    ]


class MountedStorage(LocalStorage):
    """Run in the folder in which the worker starts the run.

    Without this storage a run in a container works in a copy of the folder, and its results are lost with the container.
    """

    def to_pull_step(self) -> dict[str, Any]:
        """Return the pull step that a worker runs."""
        return {"prefect.deployments.steps.set_working_directory": {"directory": "."}}


def _make_deployment(
    flow: Flow[..., Any], tag: str, parameters: dict[str, Any], pool: str | None, schedules: Sequence[Schedule] = ()
) -> RunnerDeployment:
    """Make a deployment whose worker starts in this checkout.

    Set `working_dir` on the pool for other paths.
    """
    deployment = cast(
        RunnerDeployment,
        flow.to_deployment(
            flow.name,
            tags=[tag],
            description=(flow.description or "").partition("Args:")[0].strip(),  # the form shows the arguments
            parameters=parameters,
            schedules=list(schedules),
            work_pool_name=pool,
            job_variables={"working_dir": str(Path.cwd())} if pool else None,
            entrypoint_type=EntrypointType.MODULE_PATH,
        ),
    )
    deployment.storage = MountedStorage(".") if pool else None
    return deployment


def apply_deployments(
    client: SyncPrefectClient, deployments: Sequence[RunnerDeployment], pool: str, template: Path | None = None
) -> None:
    """Register deployments with a work pool and create the pool if it does not exist.

    `template` is a JSON job template named after its pool type; without it the pool starts a process for each run.
    Raises ConfigError if the template is not valid or its type differs from the type of the pool.
    """
    job_template = _read_job_template(template) if template else {}
    pool_type = template.stem if template else "process"
    pool_types = {work_pool.name: work_pool.type for work_pool in client.read_work_pools()}
    if pool not in pool_types:
        client.create_work_pool(WorkPoolCreate(name=pool, type=pool_type, base_job_template=job_template))
    elif template and pool_types[pool] != pool_type:
        raise ConfigError(f"--template {template}: type must be {pool_types[pool]}, the type of pool {pool}, got {pool_type}")
    elif template:
        client.update_work_pool(pool, WorkPoolUpdate(base_job_template=job_template))
    replace_deployments(client, deployments)
    for deployment in deployments:
        deployment.apply()


def _read_job_template(template: Path) -> dict[str, Any]:
    try:
        job_template = json.loads(template.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--template {template}: {error}") from None
    if not isinstance(job_template, dict) or job_template.keys() != {"job_configuration", "variables"}:
        raise ConfigError(f"--template {template}: keys must be job_configuration and variables")
    return job_template


def replace_deployments(client: SyncPrefectClient, deployments: Sequence[RunnerDeployment]) -> None:
    """Delete existing deployments with the same names that another runner owns.

    Otherwise both the serving process and the workers of a pool would pick up the same runs.
    """
    uses_pool = {deployment.name: deployment.work_pool_name is not None for deployment in deployments}
    for existing in client.read_deployments():
        if existing.name in uses_pool and (existing.work_pool_name is not None) != uses_pool[existing.name]:
            client.delete_deployment(existing.id)


def mark_crashed_runs(client: SyncPrefectClient) -> Sequence[str]:
    """Set unfinished runs of an earlier process to Crashed and return their names.

    Call it before serving.
    """
    unfinished_states = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    served_ids = {deployment.id for deployment in client.read_deployments() if deployment.work_pool_name is None}
    runs = [
        run
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=unfinished_states)))
        if run.deployment_id in served_ids
    ]
    for run in runs:
        client.set_flow_run_state(run.id, Crashed(message="the serving process ended; start the run again to resume"), force=True)
    return [run.name for run in runs]


def add_failure_webhook(url: str) -> None:
    """Create an automation that posts JSON to `url` when a run fails or crashes."""
    block = Webhook(method="POST", url=SecretStr(url), allow_private_urls=True).save(FAILURE_WEBHOOK, overwrite=True)
    trigger = EventTrigger(
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        posture=Posture.Reactive,
        threshold=1,
    )
    automation = Automation(
        name=FAILURE_WEBHOOK, trigger=trigger, actions=[CallWebhook(block_document_id=cast(UUID, block), payload=FAILURE_PAYLOAD)]
    )
    with get_client(sync_client=True) as client:
        for previous in client.read_automations_by_name(FAILURE_WEBHOOK):
            client.delete_automation(previous.id)
    automation.create()
