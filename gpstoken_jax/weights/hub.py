"""Repositories of the Hugging Face hub, through ``huggingface_hub`` where it is installed.

Cache, tokens, mirrors (``HF_ENDPOINT``) and the offline mode (``HF_HUB_OFFLINE``) are that
library's own.
"""

import contextlib
import re
from pathlib import Path
from types import ModuleType

from gpstoken_jax.weights.errors import WeightsError

_PATTERNS = ("*.safetensors", "config.json")
_SECONDS = 10  # to wait for the hub's answer
_NAME = r"[A-Za-z0-9][\w.-]*"


def is_repository(source: str) -> bool:
    """Tells whether a text has the form OWNER/NAME or OWNER/NAME/SUBFOLDER."""
    return re.fullmatch(rf"{_NAME}/{_NAME}(/{_NAME})*", source) is not None


def download(
    source: str, *, subfolder: str | None = None, revision: str | None = None
) -> tuple[Path, str | None]:
    """Brings the weights of a repository into the cache, of one variant alone.

    Args:
      source: OWNER/NAME, OWNER/NAME/SUBFOLDER, or a file in one of them.
      subfolder: the variant, where a repository has several; the end of its name is enough.
      revision: branch, tag or commit.

    Returns:
      The folder of the repository in the cache, and the sub-folder in it.

    Raises:
      WeightsError: if the library is not installed, the repository cannot be reached and is not in
        the cache, or there are several variants.
    """
    owner, name, *inside = source.split("/")
    if inside and inside[-1].endswith(".safetensors"):  # a file of a variant: its folder
        inside.pop()
    repository, subfolder = f"{owner}/{name}", "/".join(inside) or subfolder
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise WeightsError(
            f"there is no file or folder {source}; to look for it on the hub: "
            "pip install huggingface_hub"
        ) from error
    try:
        try:
            if constants.HF_HUB_OFFLINE:
                raise ConnectionError("HF_HUB_OFFLINE is set")
            info = hub.HfApi().model_info(repository, revision=revision, timeout=_SECONDS)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            raise
        except Exception as unreachable:  # each version of the library has other ones
            folder = _find_cached(hub, repository, revision, unreachable)
            files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
            return folder, _choose(f"the cache of {source}", files, subfolder)
        subfolder = _choose(source, [file.rfilename for file in info.siblings], subfolder)
        patterns = [f"{subfolder}/{p}" if subfolder else p for p in _PATTERNS]
        folder = hub.snapshot_download(repository, revision=revision, allow_patterns=patterns)
        return Path(folder), subfolder
    except WeightsError:
        raise
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" with a revision {revision}" if revision else ""
        raise WeightsError(
            f"there is no file or folder {source}, and no repository {repository}{at} on the hub "
            "(or only for those who are logged in)"
        ) from error
    except Exception as error:  # of the library, its HTTP client, the disk
        raise _unreachable(source, error) from error


def _unreachable(source: str, error: Exception) -> WeightsError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return WeightsError(
        f"there is no file or folder {source}, and the hub cannot be asked ({reason}); without "
        "network give a local path"
    )


def _find_cached(
    hub: ModuleType, repository: str, revision: str | None, unreachable: Exception
) -> Path:
    """The newest snapshot in the cache, or that of a revision; raises if there is none."""
    with contextlib.suppress(hub.CacheNotFound):
        for repo in hub.scan_cache_dir().repos:
            found = [
                snapshot
                for snapshot in repo.revisions
                if not revision or revision in (*snapshot.refs, snapshot.commit_hash)
            ]
            if repo.repo_id == repository and repo.repo_type == "model" and found:
                return max(found, key=lambda snapshot: snapshot.last_modified).snapshot_path
    raise _unreachable(repository, unreachable)


def _choose(source: str, files: list[str], subfolder: str | None) -> str | None:
    """The one folder with weights, or the one whose name ends as asked for."""
    folders = sorted({name.rpartition("/")[0] for name in files if name.endswith(".safetensors")})
    if not folders:
        raise WeightsError(f"{source} has no .safetensors file")
    found = [f for f in folders if not subfolder or f.lower().endswith(subfolder.lower())]
    if subfolder in folders:
        return subfolder
    if len(found) != 1:
        names = ", ".join(folder or "its root" for folder in folders)
        problem = f"no variant {subfolder!r}" if subfolder else "several variants"
        raise WeightsError(
            f"{source} has {problem}, give one as the sub-folder (OWNER/NAME/SUBFOLDER): {names}"
        )
    return found[0] or None
