"""For tests, ours and those of packages that bring executors: a scripted executor, and the conformance suite."""

from nemo_prefect.testing.fake import FakeExecutor

__all__ = ["FakeExecutor"]
