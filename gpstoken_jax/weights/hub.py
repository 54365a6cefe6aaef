"""Repositories of the Hugging Face hub, through ``huggingface_hub`` where it is installed.

Cache, tokens, mirrors (``HF_ENDPOINT``) and the offline mode (``HF_HUB_OFFLINE``) are that
library's own.
"""

import re
from pathlib import Path

from gpstoken_jax.weights.errors import WeightsError

_PATTERNS = ("*.safetensors", "config.json")
_NAME = r"[A-Za-z0-9][\w.-]*"


def is_repository(source: str) -> bool:
    """Whether a text has the form OWNER/NAME or OWNER/NAME/SUBFOLDER."""
    return re.fullmatch(rf"{_NAME}/{_NAME}(/{_NAME})*", source) is not None


def download(
    source: str, *, subfolder: str | None = None, revision: str | None = None
) -> tuple[Path, str | None]:
    """Brings the weights of a repository into the cache, of one variant alone.

    Args:
      source: OWNER/NAME or OWNER/NAME/SUBFOLDER.
      subfolder: the variant, where a repository has several; the end of its name is enough.
      revision: branch, tag or commit.

    Returns:
      The folder of the repository in the cache, and the sub-folder in it.

    Raises:
      WeightsError: if the library is not installed, the repository cannot be reached and is not in
        the cache, or there are several variants.
    """
    owner, name, *inside = source.split("/")
    repository, subfolder = f"{owner}/{name}", "/".join(inside) or subfolder
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsError(
            f"there is no file or folder {source}; to look for it on the hub: "
            "pip install huggingface_hub"
        ) from error
    try:
        files = _files(huggingface_hub, repository, revision)
        if files is not None:
            subfolder = _choose(source, files, subfolder)
        start = f"{subfolder}/" if subfolder else ""
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=[start + pattern for pattern in _PATTERNS],
            local_files_only=files is None,
        )
    except WeightsError:
        raise
    except Exception as error:  # of the library, its HTTP client, the disk
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"there is no file or folder {source}, and the hub's repository {repository} could not "
            f"be read ({type(error).__name__}: {reason}); without network give a local path"
        ) from error
    return Path(folder), subfolder


def _files(hub, repository: str, revision: str | None) -> list[str] | None:
    """Names of a repository's files; None where only the cache can be asked."""
    if hub.constants.HF_HUB_OFFLINE:
        return None
    try:
        return hub.HfApi().list_repo_files(repository, revision=revision)
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError):
        raise
    except Exception:  # no network: each version of the library has other exceptions for it
        return None


def _choose(source: str, files: list[str], subfolder: str | None) -> str | None:
    """The one folder with weights, or the one whose name ends as asked for."""
    folders = sorted({name.rpartition("/")[0] for name in files if name.endswith(".safetensors")})
    found = [f for f in folders if not subfolder or f.lower().endswith(subfolder.lower())]
    if subfolder in folders:
        return subfolder
    if not folders:
        raise WeightsError(f"the hub's repository {source} has no .safetensors file")
    if len(found) != 1:
        names = ", ".join(folder or "its root" for folder in folders)
        raise WeightsError(f"{source} has several variants, give one as the sub-folder: {names}")
    return found[0] or None
