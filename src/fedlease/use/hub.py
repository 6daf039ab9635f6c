"""Uploads a folder to a repository of the model hub."""

import re
from pathlib import Path

from fedlease._version import __version__
from fedlease.core.wording import printable
from fedlease.errors import ConfigError

__all__ = ["check_push", "push"]

NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}")


def check_push(name: str) -> None:
    """Checks, before anything is computed, the name of a repository and that there is a token; sends nothing.

    Raises:
        ConfigError: it is no name of a repository, or there is no token.
    """
    from huggingface_hub import get_token

    if not NAME.fullmatch(name):
        raise ConfigError(f"push-to-hub: must be owner/name, received {printable(name, longest=200)!r}")
    if get_token() is None:
        raise ConfigError("push-to-hub: no token of the hub; run `hf auth login` or set HF_TOKEN")


def push(name: str, folder: Path, *, private: bool = True) -> str:
    """Uploads every file of a folder in one commit; other files in the repository stay.

    huggingface_hub takes endpoint and token from the environment (``HF_ENDPOINT``, ``HF_TOKEN``) or from ``hf auth
    login``; fedlease stores neither.

    Args:
        name: repository ``owner/name``, which is made if it is missing; without ``owner/`` it is the token owner's.
        folder: folder to upload.
        private: whether a new repository is private; an existing one stays as it is.

    Returns:
        The address of the repository.

    Raises:
        ConfigError: see :func:`check_push`; or the hub refuses or cannot be reached. The folder stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        from httpx import HTTPError
    except ImportError:  # huggingface_hub before version 1 uses requests, whose errors are OSErrors
        HTTPError = OSError  # type: ignore[misc, assignment]
    check_push(name)
    api = HfApi(library_name="fedlease", library_version=__version__)
    rest = f"; {folder} is written, upload it by: hf upload {name} {folder}"
    try:
        made = api.create_repo(name, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=str(folder), commit_message="Exported by fedlease")
    except HfHubHTTPError as error:
        reason = printable(error.server_message or str(error).split("\n")[0], longest=200)
        raise ConfigError(
            f"push-to-hub: {api.endpoint} answers {error.response.status_code} for {name}: {reason}{rest}"
        ) from error
    except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError: the upload was interrupted
        reason = printable(str(error), longest=200)
        raise ConfigError(f"push-to-hub: {api.endpoint} was not reached: {reason}{rest}") from error
    return f"{api.endpoint}/{made.repo_id}"
