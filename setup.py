"""Builds the package; ``kernels/``, ``configs/`` and the root's two programs become part of it."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = {"gpstoken_jax.kernels": "kernels", "gpstoken_jax.configs": "configs"}
PROGRAMS = ("train.py", "eval.py")


class BuildWithPrograms(build_py):
    """Copies the programs at the root of the repository into ``gpstoken_jax.programs``."""

    def run(self):
        """Builds as usual, then adds the programs; an editable installation finds them in place."""
        super().run()
        if not self.editable_mode:
            for name in PROGRAMS:
                shutil.copy(name, Path(self.build_lib, "gpstoken_jax", "programs", name))


setup(
    packages=[*find_packages(include=["gpstoken_jax*"]), *FOLDERS],
    package_dir=FOLDERS,
    cmdclass={"build_py": BuildWithPrograms},
)
