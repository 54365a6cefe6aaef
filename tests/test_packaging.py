"""The wheel: every file is in it, and nothing but ``gpstoken_jax`` at the top."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _run(*command, **options):
    result = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, **options
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, as building leaves files behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    parts = ("gpstoken_jax/", "kernels/", "configs/")
    for name in names:
        wanted = name.startswith(parts) or (name and "/" not in name)
        if wanted and (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    _run("-m", "pip", "wheel", "-q", "--no-deps", "-w", out, source)
    return next(out.glob("*.whl"))


def test_every_file_is_in_the_wheel(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    listed = ["git", "ls-files", "gpstoken_jax", "kernels", "configs"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True).stdout.split()
    wanted = {name if name.startswith("gpstoken_jax") else f"gpstoken_jax/{name}" for name in names}
    assert wanted, "not a git checkout"
    missing = {name for name in wanted if name.endswith((".py", ".typed", ".json", ".safetensors"))}
    missing |= {name for name in wanted if "/templates/" in name}
    assert not missing - inside
    assert {name.split("/")[0] for name in inside} == {
        "gpstoken_jax", next(n.split("/")[0] for n in inside if n.endswith("METADATA")),
    }  # fmt: skip


@pytest.mark.slow
def test_it_works_beside_another_package_called_kernels(wheel, tmp_path):
    """Hugging Face ships one."""
    target = tmp_path / "site"
    _run("-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel, "kernels")
    code = (
        "import importlib.util as u, gpstoken_jax.kernels, gpstoken_jax.configs.tiny\n"
        "print(u.find_spec('kernels').origin); print(gpstoken_jax.kernels.__file__)\n"
        "from gpstoken_jax import Tokenizer"
    )
    env = {"PYTHONPATH": f"{target}:{_packages()}", "PATH": "", "JAX_PLATFORMS": "cpu"}
    other, ours = _run("-S", "-c", code, cwd=tmp_path, env=env).split()
    assert other == str(target / "kernels" / "__init__.py")
    assert ours == str(target / "gpstoken_jax" / "kernels" / "__init__.py")
    for name in ("train", "eval", "encode"):
        command = ["-S", "-m", "gpstoken_jax", name, "--help"]
        assert "Flags" in _run(*command, cwd=tmp_path, env=env)


def _packages() -> str:
    """Folder of the requirements, without the editable installation of this project."""
    import jax

    return str(Path(jax.__file__).parents[1])
