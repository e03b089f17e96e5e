"""Secrets of Google's Secret Manager: tokens and passwords, which no command line, log or message may hold."""

from __future__ import annotations

from beam_volumes.errors import OptionError


def read_secret(name: str, option: str, what: str) -> str:
    """Return the latest version of a secret, see https://cloud.google.com/secret-manager/docs/access-secret-version.

    Args:
        name: `projects/P/secrets/S`.
        option: the option that names it, with its dashes.
        what: is in it, for messages: "a token".

    Raises:
        OptionError: it cannot be read, or is no text; no message shows any of it.

    """
    try:
        # Only where it is asked for: the package is large, and missing where Google Cloud is not used.
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import secretmanager
    except ImportError as error:
        raise OptionError(
            f"{option}: {name} is read with google-cloud-secret-manager, which is not installed: "
            "pip install google-cloud-secret-manager"
        ) from error
    try:
        client = secretmanager.SecretManagerServiceClient()
        answer = client.access_secret_version(name=f"{name}/versions/latest")
    except (GoogleAPIError, GoogleAuthError) as error:
        raise OptionError(f"{option}: cannot read the secret {name}: {type(error).__name__}: {error}") from error
    try:
        return str(answer.payload.data.decode("utf-8"))
    except UnicodeDecodeError:
        # Not chained: the error holds the bytes of the secret.
        raise OptionError(f"{option}: expected {what} as text in the secret {name}, came other bytes") from None
