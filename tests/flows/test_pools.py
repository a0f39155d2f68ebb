"""The templates of docs/pools, read by the workers that would run them; no container is started."""

import json
from pathlib import Path

import pytest
from prefect.utilities.templating import apply_values

POOLS = Path(__file__).resolve().parents[2] / "docs/pools"


def configured(worker, kind):
    """What `worker` makes of the template of `kind` for a deployment as `python -m flows.serve --pool` names it."""
    template = json.loads((POOLS / f"{kind}.json").read_text())
    known = {name: said["default"] for name, said in template["variables"]["properties"].items() if "default" in said}
    filled = apply_values(template["job_configuration"], {**known, "working_dir": "/srv/clone"}, remove_notset=True)
    return worker.job_configuration(**filled)


def test_a_run_in_docker_works_in_the_clone_that_is_mounted_where_it_lies_on_the_host():
    worker = pytest.importorskip("prefect_docker.worker", reason="pip install prefect-docker").DockerWorker
    found = configured(worker, "docker")
    assert found.volumes == ["/srv/clone:/srv/clone"] and found.image == "provenlm"
    assert found.container_create_kwargs == {"working_dir": "/srv/clone"}


def test_a_run_in_kubernetes_is_one_job_that_works_in_the_volume_and_is_never_restarted():
    worker = pytest.importorskip("prefect_kubernetes.worker", reason="pip install prefect-kubernetes").KubernetesWorker
    pod = configured(worker, "kubernetes").job_manifest["spec"]
    assert pod["backoffLimit"] == 0 and pod["template"]["spec"]["restartPolicy"] == "Never"
    container = pod["template"]["spec"]["containers"][0]
    assert container["workingDir"] == "/srv/clone" and container["volumeMounts"][0]["mountPath"] == "/srv/clone"
    assert pod["template"]["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "provenlm"}
