"""Send a coder's folder to a model hub: the one that HF_ENDPOINT names."""

from __future__ import annotations

from pathlib import Path

from icdtune.coders.card import read_coder_info
from icdtune.errors import IcdtuneError
from icdtune.files import read_json


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
        public = not api.repo_info(repository).private
        if public and read_coder_info(folder).protected:
            raise IcdtuneError(
                f"{repository} is public, and {folder} was trained on patient data. Name a private one"
            )
        api.upload_folder(
            folder_path=folder, repo_id=repository, commit_message="Trained by icdtune"
        )
    except IcdtuneError:
        raise
    except Exception as error:  # of the hub's library, of its HTTP client, of the network
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise IcdtuneError(
            f"{folder} could not be sent to {repository}: {reason.rstrip('.')}. Log in with: hf auth "
            f"login, or set HF_ENDPOINT and HF_TOKEN; then push again"
        ) from None
    return str(made)


def check_may_leave(folder: Path, allow_protected: bool) -> None:
    """IcdtuneError where a coder learnt from patient data and nobody said that it may be sent.

    So too where it would be of no use elsewhere: an adapter of a model in a local folder.
    """
    if not allow_protected:
        check_open(folder)
    settings = folder / "generative.json"
    if not settings.exists():
        return
    content = read_json(settings)
    if Path(content["base"]).is_dir() and (content["adapters"] or content["weights"] == "base"):
        raise IcdtuneError(
            f"{folder} is an adapter of a model in a local folder, which others do not have. Train with "
            f"lora_rank 0, or from a model of the hub"
        )


def check_open(folder: Path) -> None:
    """IcdtuneError where a coder, or one that it went on from, learnt from patient data."""
    if read_coder_info(folder).protected:
        raise IcdtuneError(
            f"{folder} was trained on patient data, which its weights can reveal. Give "
            f"--allow-protected where your agreement covers this hub"
        )
