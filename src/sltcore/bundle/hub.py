"""Bundles to and from a Hugging Face hub; nothing here runs unless it is called."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from sltcore.bundle import provenance
from sltcore.errors import BundleError


def push_bundle(folder: Path, repository: str, *, private: bool = True) -> str:
    """Upload a verified bundle; returns its address. **Raises** `BundleError` when the bundle is damaged or the hub
    refuses."""
    from huggingface_hub import HfApi

    provenance.read(folder)
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message="sltcore bundle"))
    except Exception as error:
        raise BundleError(_refused("push to", repository, error)) from error


def pull_bundle(repository: str, folder: Path, *, revision: str | None = None) -> Path:
    """Download a bundle to `folder`, verify it, and only then put it there. **Raises** `BundleError` when the folder
    exists, the hub refuses, or what came is no whole bundle."""
    from huggingface_hub import snapshot_download

    if folder.exists():
        raise BundleError(f"{folder} exists already; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        snapshot_download(repository, revision=revision, local_dir=work)
        shutil.rmtree(work / ".cache", ignore_errors=True)
        provenance.read(work)
        work.chmod(0o755)
        os.rename(work, folder)
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(_refused("pull from", repository, error)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _refused(what: str, repository: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return f"cannot {what} '{repository}': {type(error).__name__}: {reason}. Next: check the name, the network, and `hf auth login`"
