"""The tests of this folder need `-p tests.device.plugin`: see there."""

from tests.device import plugin

collect_ignore_glob = [] if plugin.ACTIVE else ["*.py"]
