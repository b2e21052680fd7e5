"""The Hugging Face hub: downloads and uploads folders, with its errors in one line.

huggingface_hub retries for minutes if a hub does not respond. Here a first request must be answered in time before any
other request is sent.
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

HUB_PATIENCE = 5.0  # seconds that the hub may take to answer the first request
T = TypeVar("T")


def download_folder(repo_id: str, patterns: Sequence[str], remedy: str) -> Path:
    """The files of a hub repository that match, downloaded or, if the hub does not respond, from an earlier download.

    HF_HUB_OFFLINE is respected. Raises InputError, with this remedy, if they are unavailable.
    """
    hub = HfApi()
    try:
        return _download(repo_id, partial(snapshot_download, repo_id, allow_patterns=list(patterns)))
    except HFValidationError:
        raise InputError(repo_id, "is neither a folder nor a hub id", remedy) from None
    except RepositoryNotFoundError:
        raise InputError(repo_id, f"is not a folder, and {hub.endpoint} has no such model", remedy) from None
    except HfHubHTTPError as error:
        problem = f"is not a folder, and {hub.endpoint} does not give it ({first_line(error)})"
        raise InputError(repo_id, problem, remedy) from None
    except (OSError, HTTPError):
        problem = "is not a folder, and the hub cannot be reached (or HF_HUB_OFFLINE is set) and has left no copy here"
        raise InputError(repo_id, problem, remedy) from None


def download_file(repo_id: str, name: str) -> Path:
    """One file of a hub repository, as `download_folder` gets it. Raises the errors of huggingface_hub."""
    return _download(repo_id, partial(hf_hub_download, repo_id, name))


def upload_folder(folder: Path, repo_id: str, private: bool, message: str) -> str:
    """Upload a folder to a hub repository, which is created if needed; returns the repository's address.

    Raises InputError if the hub refuses, cannot be reached, or there is no token.
    """
    hub = HfApi()
    try:
        _first_answer(hub.whoami)
        hub.create_repo(repo_id, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    except HFValidationError:
        raise InputError(repo_id, "is not a hub id", "name it OWNER/MODEL") from None
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        remedy = "check the name, the token (hf auth login, or HF_TOKEN) and the network"
        problem = f"cannot be uploaded to {hub.endpoint} ({first_line(error)})"
        raise InputError(repo_id, problem, remedy) from None
    return f"{hub.endpoint}/{repo_id}"


def _first_answer(question: Callable[[], T]) -> T:
    """The hub's answer to a single request. Raises TimeoutError after HUB_PATIENCE.

    A thread, because no time-out of an HTTP client covers the look-up of the hub's address.
    """
    answer: Future[T] = Future()

    def ask() -> None:
        try:
            answer.set_result(question())
        except Exception as error:
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    try:
        return answer.result(HUB_PATIENCE)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer within {HUB_PATIENCE:g} s") from None


def _download(repo_id: str, download: Callable[..., str]) -> Path:
    """Download if the hub responds, otherwise use an earlier download; raises the hub's error if there is none."""
    try:
        _first_answer(lambda: HfApi().model_info(repo_id))
    except (OSError, HTTPError) as error:
        try:
            return Path(download(local_files_only=True))
        except LocalEntryNotFoundError:
            raise error from None
    return Path(download())


def first_line(error: Exception) -> str:
    """The first line of a hub exception's message, at most 160 characters."""
    return (str(error).strip().split("\n") or [""])[0][:160] or type(error).__name__
