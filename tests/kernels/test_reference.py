"""The dense reference passes the suite."""

from tests.kernels.suite import SplatSuite


class TestReference(SplatSuite):
    implementation = "reference"
