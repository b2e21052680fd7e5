"""Downloads from and uploads to the Hugging Face hub; errors become one-line messages.

huggingface_hub retries for minutes when the hub does not respond. Here a first request must be answered within
HUB_TIMEOUT before any other request is sent.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TypeVar

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from unisign_fast.pipelines.errors import InputError

HUB_TIMEOUT = 5.0  # seconds, for the first request
T = TypeVar("T")


def download_folder(repo_id: str, patterns: Sequence[str], remedy: str) -> Path:
    """Download the matching files of a hub repository, and return their folder.

    If the hub does not respond, an earlier download is used. HF_HUB_OFFLINE is respected. Raises InputError, with this
    remedy, if the files are unavailable.
    """
    hub = HfApi()
    try:
        return _download(repo_id, partial(snapshot_download, repo_id, allow_patterns=list(patterns)))
    except HFValidationError:
        raise InputError(repo_id, "is neither a folder nor a hub id", remedy) from None
    except RepositoryNotFoundError:
        raise InputError(repo_id, f"is not a folder, and {hub.endpoint} has no such model", remedy) from None
    except HfHubHTTPError as error:
        problem = f"is not a folder, and {hub.endpoint} refused the download ({first_line(error)})"
        raise InputError(repo_id, problem, remedy) from None
    except (OSError, HTTPError):
        problem = "is not a folder or a cached download, and the hub is unreachable (or HF_HUB_OFFLINE is set)"
        raise InputError(repo_id, problem, remedy) from None


def download_file(repo_id: str, name: str) -> Path:
    """Download one file of a hub repository as `download_folder` does. Raises the errors of huggingface_hub."""
    return _download(repo_id, partial(hf_hub_download, repo_id, name))


def upload_folder(folder: Path, repo_id: str, private: bool, message: str) -> str:
    """Upload a folder to a hub repository, which is created if needed; returns the repository's address.

    Raises InputError if the hub refuses, cannot be reached, or there is no token.
    """
    hub = HfApi()
    try:
        _first_response(hub.whoami)
        hub.create_repo(repo_id, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    except HFValidationError:
        raise InputError(repo_id, "is not a hub id", "name it OWNER/MODEL") from None
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        remedy = "check the name, the token (hf auth login, or HF_TOKEN) and the network"
        problem = f"cannot be uploaded to {hub.endpoint} ({first_line(error)})"
        raise InputError(repo_id, problem, remedy) from None
    return f"{hub.endpoint}/{repo_id}"


def _first_response(request: Callable[[], T]) -> T:
    """The hub's response to a single request. Raises TimeoutError after HUB_TIMEOUT.

    Runs in a thread, since an HTTP client's timeout does not cover the DNS lookup.
    """
    response: Future[T] = Future()

    def send() -> None:
        try:
            response.set_result(request())
        except Exception as error:
            response.set_exception(error)

    Thread(target=send, daemon=True).start()
    try:
        return response.result(HUB_TIMEOUT)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer within {HUB_TIMEOUT:g} s") from None


def _download(repo_id: str, download: Callable[..., str]) -> Path:
    """Download if the hub responds, otherwise use an earlier download; raises the hub's error if there is none."""
    try:
        _first_response(lambda: HfApi().model_info(repo_id))
    except (OSError, HTTPError) as error:
        try:
            return Path(download(local_files_only=True))
        except LocalEntryNotFoundError:
            raise error from None
    return Path(download())


def first_line(error: Exception) -> str:
    """The first line of a hub exception's message, at most 160 characters."""
    return (str(error).strip().split("\n") or [""])[0][:160] or type(error).__name__
