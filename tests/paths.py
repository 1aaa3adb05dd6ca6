"""Where the project lies, for tests that run its programs."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
