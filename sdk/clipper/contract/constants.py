"""Names and limits on which two of the SDK, the platform and the runtime must agree."""

from __future__ import annotations

from typing import Final, Literal

# The bundle of `clipper.deploy(function)`: one pickle in place of source files, and the module name of its entrypoint.
CLOSURE_MODULE: Final = "__closure__"
CLOSURE_FILE: Final = "__closure__.pkl"

# Our packages that are staged beside every bundle: a replica imports them although its environment lacks them.
STAGED_PACKAGES: Final = ("clipper", "clipper_runtime")

# Environment variables of a replica's process: its id, and the file to which it writes the names of the modules that
# it imported, if the platform asks for them.
REPLICA_VARIABLE: Final = "CLIP_REPLICA"
REPORT_VARIABLE: Final = "CLIP_MODULES_TO"

# Where clients on the same machine find the platform: its state directory, and the files in it with its address and
# with the key of the machine's user.
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8700
DEFAULT_HOME: Final = "~/.clip"
PLATFORM_FILE: Final = "platform.json"
KEY_FILE: Final = "api_key"

# The control API.
API_ROOT: Final = "/api/v1"
Scope = Literal["invoke", "deploy", "admin"]
SCOPES: Final[tuple[Scope, ...]] = ("invoke", "deploy", "admin")
# Lines of a log that is asked for without a number or a time: enough to see what happened last, few enough to scan.
DEFAULT_LOG_LINES: Final = 100
