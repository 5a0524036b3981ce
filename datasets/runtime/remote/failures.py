"""What an error of a storage library means: may it pass, what is wrong, in our own words.

The libraries (fsspec, botocore, aiohttp, google) may not be installed, so classes are known by their names. Their
messages are never quoted: a signed request could stand in them.
"""

from __future__ import annotations

NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "DefaultCredentialsError",
)
FINAL = (*NO_CREDENTIALS, "ParamValidationError", "InvalidRegionError", "ProfileNotFound", "InvalidURL")
PASSING = ("BotoCoreError", "ClientError", "HttpError", "TimeoutError", "OSError", "TransportError", "RefreshError")
"""Names of classes, in an error's line of bases."""


def root_of(error: Exception) -> BaseException:
    """The true error: that of fsspec's http is always 'not found', with the true one as its cause."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and "aiohttp" in type(cause).__module__:
        return error if _status(cause) in (404, 410) else cause
    return error


def _names(error: BaseException) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error or of what caused it, from whichever library."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        for name in ("status", "code"):
            if isinstance(status := getattr(one, name, None), int):
                return status
    return None


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from."""
    chain: list[BaseException] = []
    waiting: BaseException | None = error
    while waiting is not None and waiting not in chain:
        chain.append(waiting)
        waiting = waiting.__cause__ or waiting.__context__
    return chain


def may_pass(error: BaseException) -> bool:
    """Whether a request is worth making again: not after a refusal, nor after a defect of ours."""
    if isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError) or _names(error) & {*FINAL}:
        return False
    status = _status(error)
    if status is not None and 400 <= status < 500 and status not in (408, 429):
        return False
    return bool(_names(error) & {*PASSING})


def problem_of(error: BaseException) -> str | None:
    """What is wrong, of an error that does not pass and is not a defect of ours; else None."""
    if _names(error) & {*NO_CREDENTIALS}:
        return (
            "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (gs: "
            "GOOGLE_APPLICATION_CREDENTIALS), or FSSPEC_S3_ANON=true for a public bucket"
        )
    if isinstance(error, PermissionError) or _status(error) in (401, 403):
        return "access is denied; check the credentials and the bucket's policy"
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return "is a folder where a file is expected, or the reverse"
    if _names(error) & {*FINAL, *PASSING}:
        return f"the request was refused ({reason_of(error)}); check the address"
    return None


def reason_of(error: BaseException) -> str:
    """Why, in our words: a library's own message may quote the whole request."""
    chain = _chain(error)
    names = set().union(*map(_names, chain))
    if "ConnectionRefusedError" in names:
        return "connection refused"
    if names & {"gaierror", "ClientConnectorDNSError"}:
        return "its host name is not known"
    if names & {"TimeoutError", "ReadTimeoutError", "ConnectTimeoutError"}:
        return "timed out"
    if "EndpointConnectionError" in names:
        return "no connection"
    status = _status(error)
    return type(error).__name__ if status is None else f"HTTP status {status}"
