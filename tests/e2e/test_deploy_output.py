"""What `clip deploy` prints can be pasted into a shell."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.support.platform import PlatformProcess, write_project


def test_the_call_that_a_deploy_prints_runs_or_says_that_it_cannot_know(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    app = (
        "import dataclasses\nimport datetime\nimport clipper\n\n"
        "@dataclasses.dataclass\nclass Order:\n    day: datetime.date\n    count: int\n    tags: list[str]\n\n"
        "@clipper.function()\ndef one(order: Order, rate: float) -> float:\n    return order.count * rate\n"
    )
    directory = write_project(tmp_path / "known", app, 'name = "printed"\n')
    unknown = write_project(tmp_path / "unknown", app.replace("rate: float", "rate: list[float]"), 'name = "guess"\n')
    smoke = '[deploy.smoke]\none = { order = { day = "2026-01-31", count = 2, tags = [] }, rate = 2.5 }\n'
    try:
        command = curl_of(platform.clip("deploy", directory).out)
        assert json.loads(subprocess.run(command, shell=True, capture_output=True, check=True).stdout) == 0.5
        assert "does not say which values rate takes" in platform.clip("deploy", unknown).out
        (directory / "clip.toml").write_text(f'name = "printed"\n{smoke}')
        command = curl_of(platform.clip("deploy", directory).out)
        assert json.loads(subprocess.run(command, shell=True, capture_output=True, check=True).stdout) == 5.0
    finally:
        for name in ("printed", "guess"):
            platform.clip("delete", name, "--yes", check=False)


def curl_of(output: str) -> str:
    """The curl command of a deploy's output."""
    lines = output.splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip().startswith("curl "))
    last = next(i for i in range(first, len(lines)) if not lines[i].rstrip().endswith("\\"))
    return "\n".join(lines[first : last + 1])
