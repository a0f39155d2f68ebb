"""WHEN: Prefect flows: order, schedule, retries, who is told. No arithmetic, no torch.

Importing anything from here makes Prefect and DVC local and silent first, because Prefect reads its settings once, at import.
What is already in the environment wins.
"""

import os
from pathlib import Path

LOCAL = {
    "PREFECT_HOME": str(Path.cwd() / ".prefect"),  # history by project, and no profile of the user's that points elsewhere
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # V2 fetches its configuration from a tracker, whatever one says about tracking
}

for _name, _value in LOCAL.items():
    os.environ.setdefault(_name, _value)
for _name in ("no_proxy", "NO_PROXY"):  # our own server is on this machine, whatever proxy leads off it
    if "127.0.0.1" not in (_known := os.environ.get(_name, "")):
        os.environ[_name] = f"{_known},127.0.0.1,localhost".lstrip(",")
