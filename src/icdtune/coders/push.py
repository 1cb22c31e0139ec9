"""Send a coder's folder to a model hub: the one that HF_ENDPOINT names."""

from __future__ import annotations

from pathlib import Path

from icdtune.coders.card import read_coder_info
from icdtune.errors import IcdtuneError


def push(folder: Path, repository: str, allow_protected: bool = False) -> str:
    """Upload a coder's folder into a repository, which is made (private) where there is none.

    Args:
        folder: of a trained coder.
        repository: OWNER/NAME on the hub.
        allow_protected: also send weights that were trained on patient data.

    Returns:
        The repository's address.

    Raises:
        IcdtuneError: the coder learnt from patient data, or the hub refuses or is not there.
    """
    check_may_leave(folder, allow_protected)
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        made = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            folder_path=folder, repo_id=repository, commit_message="Trained by icdtune"
        )
    except Exception as error:  # of the hub's library, of its HTTP client, of the network
        reason = str(error).strip().splitlines()[0]
        raise IcdtuneError(
            f"{folder} could not be sent to {repository}: {reason} Log in with: hf auth login, or set "
            f"HF_ENDPOINT and HF_TOKEN; then push again"
        ) from None
    return str(made)


def check_may_leave(folder: Path, allow_protected: bool) -> None:
    """IcdtuneError where a coder learnt from patient data and nobody said that it may be sent."""
    data = read_coder_info(folder).data
    if allow_protected or (data is not None and not data.protected):
        return
    raise IcdtuneError(
        f"{folder} was trained on patient data, which its weights can reveal. Give --allow-protected "
        f"where your agreement covers this hub"
    )
