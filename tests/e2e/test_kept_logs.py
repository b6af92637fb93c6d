"""What a function wrote is in its log: in a burst, as its replica goes, and over a restart of the platform."""

from __future__ import annotations

import json
import subprocess
import threading

from tests.e2e.conftest import Deploy
from tests.support.platform import CLIP, PlatformProcess, eventually, write_project

APP = """
import atexit, threading
import clipper

@clipper.function(downscale_to_zero_delay_s=0.5, autoscaling={"min_replicas": 0})
class Talk:
    def __init__(self):
        print("setup")
        atexit.register(print, "at exit")

    def __call__(self, word: str, times: int = 1) -> str:
        for number in range(times):
            print(word, number)
        return word

    def close(self):
        print("closed")
"""


def messages(platform: PlatformProcess, path: str) -> list[str]:
    lines = platform.clip("logs", path, "--json", "--tail", "10000").out.splitlines()
    return [line["message"] for line in map(json.loads, lines) if line["stream"] != "system"]


def test_a_burst_is_whole_for_those_who_read_later_and_those_who_follow(
    platform: PlatformProcess, deploy: Deploy
) -> None:
    name = deploy(APP.replace("downscale_to_zero_delay_s=0.5", "downscale_to_zero_delay_s=60"))
    expected = [f"burst {number}" for number in range(5_000)]
    following = subprocess.Popen(
        [CLIP, "logs", f"{name}/Talk", "-f", "--json"], env=platform.environment(), stdout=subprocess.PIPE, text=True
    )
    timer = threading.Timer(60, following.kill)
    timer.start()
    try:
        assert following.stdout is not None
        assert "setup" in next(line for line in following.stdout if '"system"' not in line)
        platform.call(f"{name}/Talk", word="burst", times=5_000)
        followed: list[str] = []
        for line in following.stdout:
            followed.append(json.loads(line)["message"])
            if followed[-1] == expected[-1]:
                break
        assert followed == expected
    finally:
        timer.cancel()
        following.kill()
        following.communicate()
    said = eventually(lambda: (m := messages(platform, f"{name}/Talk"))[-1:] == expected[-1:] and m)
    assert [message for message in said if message.startswith("burst")] == expected


def test_the_last_words_of_a_replica_that_is_scaled_down_are_kept(platform: PlatformProcess, deploy: Deploy) -> None:
    name = deploy(APP)
    platform.call(f"{name}/Talk", word="served")
    eventually(lambda: not platform.status(f"{name}/Talk")["replicas"], within_s=30)
    said = eventually(lambda: "at exit" in (m := messages(platform, f"{name}/Talk")) and m)
    assert said[-3:] == ["served 0", "closed", "at exit"]


def test_a_restart_of_the_platform_loses_no_line_of_before_and_of_its_drain(own_platform: PlatformProcess) -> None:
    directory = write_project(own_platform.home.with_name("p"), APP, 'name = "kept"\n')
    own_platform.deploy(directory)
    own_platform.call("kept/Talk", word="before", times=300)
    own_platform.stop()
    own_platform.start()
    own_platform.call("kept/Talk", word="after")
    said = eventually(lambda: "after 0" in (m := messages(own_platform, "kept/Talk")) and m)
    assert [message for message in said if message.startswith("before")] == [f"before {n}" for n in range(300)]
    assert {"closed", "at exit"} <= set(said[said.index("before 299") : said.index("after 0")])
    own_platform.kill()
    own_platform.start()
    assert {"before 299", "after 0"} <= set(messages(own_platform, "kept/Talk"))
