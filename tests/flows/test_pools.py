"""Test the job templates of docs/pools with the workers that read them, and a Docker run."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.utilities.templating import apply_values
from serving import Served
from tiny_project import HERE, Project

from provenlm.core.errors import ConfigError

POOLS = Path(__file__).resolve().parents[2] / "docs/pools"


def configured(worker, kind):
    """Return the job configuration that `worker` makes from a template, as for `provenlm serve --pool`."""
    template = json.loads((POOLS / f"{kind}.json").read_text())
    defaults = {
        name: variable["default"] for name, variable in template["variables"]["properties"].items() if "default" in variable
    }
    values = apply_values(template["job_configuration"], {**defaults, "working_dir": "/srv/clone"}, remove_notset=True)
    return worker.job_configuration(**values)


def test_a_docker_run_works_in_the_mounted_clone():
    worker = pytest.importorskip("prefect_docker.worker", reason="pip install prefect-docker").DockerWorker
    job = configured(worker, "docker")
    assert job.volumes == ["/srv/clone:/srv/clone"] and job.image == "provenlm"
    assert job.container_create_kwargs == {"working_dir": "/srv/clone"}


def test_a_kubernetes_run_is_one_job_without_restarts():
    worker = pytest.importorskip("prefect_kubernetes.worker", reason="pip install prefect-kubernetes").KubernetesWorker
    pod = configured(worker, "kubernetes").job_manifest["spec"]
    assert pod["backoffLimit"] == 0 and pod["template"]["spec"]["restartPolicy"] == "Never"
    container = pod["template"]["spec"]["containers"][0]
    assert container["workingDir"] == "/srv/clone" and container["volumeMounts"][0]["mountPath"] == "/srv/clone"
    assert pod["template"]["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "provenlm"}


@pytest.mark.slow  # a server, a worker and a container
def test_outputs_of_a_container_run_outlive_the_container(tmp_path):
    docker = pytest.importorskip("docker", reason="pip install prefect-docker")
    try:
        docker.from_env().images.get("provenlm")
    except docker.errors.DockerException as error:
        pytest.skip(f"docker build -f docs/pools/Dockerfile -t provenlm .: {error}")
    project = Project(tmp_path / "project", HERE / "project")
    project.dvc("init", "--no-scm")
    served = Served(tmp_path, project)
    server = served.serve("--pool", "boxes", "--template", str(POOLS / "docker.json"))
    environment = {**project.environment, **served.environment, "PREFECT_API_URL": f"http://127.0.0.1:{served.port}/api"}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "boxes"]
    worker = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        run = served.start("build", names=["proof"])
        assert served.ended(run)[0] == "Completed"
        assert "docker" in served.ask(f"/flow_runs/{run}", method="GET")["infrastructure_pid"]
        assert (project.root / "reports/proof.md").exists() and (project.root / "models/small").is_dir()
    finally:
        for process in (worker, server):
            process.send_signal(signal.SIGINT)
            process.wait()
        served.listener.shutdown()


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "No such file"), ("{", "Expecting"), ("[]", "keys must be job_configuration and variables")],
)
def test_an_invalid_template_is_refused_in_one_line(tmp_path, text, message):
    from flows.deployments import apply_deployments

    template = tmp_path / "docker.json"
    if text is not None:
        template.write_text(text)
    with pytest.raises(ConfigError, match=message) as refusal:
        apply_deployments(None, [], "boxes", template)
    assert len(str(refusal.value).splitlines()) == 1
