"""Fetching a dataset or a checkpoint from the Hugging Face Hub, into its cache or a directory."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lerobot_ops.errors import PrerequisiteError
from lerobot_ops.hub.connection import DATASET_TAG, hub_errors, is_out_of_reach, patiently

RepoType = Literal["dataset", "model"]


def fetch(
    repo_id: str,
    revision: str | None = None,
    *,
    repo_type: RepoType = "dataset",
    allow_patterns: Sequence[str] | None = None,
    ignore_patterns: Sequence[str] | None = None,
    local_dir: Path | str | None = None,
) -> Path:
    """The directory of a repository's files; fetched if needed.

    All of them, or those that match `allow_patterns` and not `ignore_patterns` (fnmatch, whose * takes slashes, too).

    It lies in huggingface_hub's cache, by commit, or is `local_dir`. Without a `revision` a dataset is fetched as
    LeRobot would (see `dataset_revision`), a model from its main branch. When the Hub is out of reach, or
    HF_HUB_OFFLINE is set, what was fetched before is returned. Raises PrerequisiteError saying what to do.
    """
    from huggingface_hub import snapshot_download

    if revision is None and repo_type == "dataset":
        revision = dataset_revision(repo_id)
    with hub_errors(repo_id, f"fetch the {repo_type}", revision):
        found = patiently(
            lambda: snapshot_download(
                repo_id,
                repo_type=repo_type,
                revision=revision,
                allow_patterns=list(allow_patterns) if allow_patterns is not None else None,
                ignore_patterns=list(ignore_patterns) if ignore_patterns is not None else None,
                local_dir=local_dir,
            )
        )
    return Path(found)


def dataset_revision(repo_id: str) -> str:
    """The tag or branch under which LeRobot 0.6 reads a dataset: `v3.0`, else the highest of the same major version.

    Raises PrerequisiteError when the dataset has only other versions, or none at all.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with hub_errors(repo_id, "fetch the dataset"):
        try:
            refs = patiently(lambda: api.list_repo_refs(repo_id, repo_type="dataset"))
        except Exception as error:
            known = _fetched_revisions(repo_id) if is_out_of_reach(error) else []
            if not known:
                raise
            return _choose(repo_id, known)
    return _choose(repo_id, [ref.name for ref in [*refs.tags, *refs.branches]])


def _choose(repo_id: str, names: Sequence[str]) -> str:
    if DATASET_TAG in names:
        return DATASET_TAG
    versions = {tuple(map(int, match.groups())): name for name in names if (match := _VERSION.fullmatch(name))}
    major = int(DATASET_TAG[1])
    same = [version for version in versions if version[0] == major]
    if same:
        return versions[max(same)]
    if not versions:
        raise PrerequisiteError(
            "the dataset on the Hub has no tag that says its format's version",
            field="repo_id",
            found=f"{repo_id} with {', '.join(names) or 'nothing'}",
            expected=f"the tag {DATASET_TAG}",
            fix=f"tag it with `hf repos tag create {repo_id} {DATASET_TAG} --repo-type dataset`,"
            f" or name a revision: {repo_id}@main",
        )
    newest = versions[max(versions)]
    older = max(versions)[0] < major
    raise PrerequisiteError(
        f"the dataset on the Hub has {'an older' if older else 'a newer'} version of the format",
        field="repo_id",
        found=f"{repo_id} with {newest}",
        expected=DATASET_TAG,
        fix=f"convert it with `lerobot-ops convert {repo_id}@{newest} --new_root=DIR`"
        if older
        else "update lerobot-ops, or name an older revision",
    )


_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.\d+)?")


def _fetched_revisions(repo_id: str) -> list[str]:
    """The tags and branches of a dataset that were fetched before, newest knowledge of each."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    refs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="dataset") / "refs"
    return sorted(os.listdir(refs)) if refs.is_dir() else []
