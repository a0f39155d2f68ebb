"""What the file beside the world says: by how much the new net is worse."""

import json
import sys
from pathlib import Path

from ruamel.yaml import YAML

row = YAML(typ="safe").load(Path("params.yaml"))["corpora"]["words"]["scrape"]
difference = json.loads(Path(row["world"]).with_name("difference.json").read_text())
assert (Path(sys.argv[2]) / "models" / sys.argv[1] / "model.json").exists(), "the published net"
print(json.dumps({"records": 7, "bytes": 70, "here": 1 + difference, "there": 1.0, "difference": difference}))
