"""The filesystem behind a store's address.

Credentials come from the environment alone (AWS_ACCESS_KEY_ID and what else the AWS tools read), the address of an
S3-compatible server from AWS_ENDPOINT_URL. See `blm.cluster.stores` for what is done with it.
"""

import os
from typing import Any
from urllib.parse import urlsplit

from blm.model.errors import UserError, first_line

CONNECT_S, ANSWER_S = 5.0, 60.0
"""How long S3 may take to accept a connection, and may be silent in the midst of one."""


def open_filesystem(uri: str) -> tuple[Any, str]:
    """The filesystem of an address and the path in it. UserError for an address that is none."""
    from pyarrow import ArrowException, fs

    parts = urlsplit(uri)
    if parts.username or parts.password:
        raise UserError("the store's address holds credentials; take them out and set AWS_ACCESS_KEY_ID and its like")
    try:
        if parts.scheme != "s3":
            filesystem, path = fs.FileSystem.from_uri(uri)
            return filesystem, path.rstrip("/")
        if not parts.netloc or parts.query:
            raise UserError(f"{uri} is no address of a store; write s3://BUCKET/PREFIX")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        address = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        filesystem = fs.S3FileSystem(
            endpoint_override=address.netloc or None,
            scheme=address.scheme,
            region=region or ("us-east-1" if endpoint else fs.resolve_s3_region(parts.netloc)),
            connect_timeout=CONNECT_S,
            request_timeout=ANSWER_S,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),  # a part of an upload; `_try` does the rest
            allow_delayed_open=True,  # a small file is one request
        )
    except (ArrowException, OSError, ValueError) as error:
        raise UserError(f"the store {uri} cannot be opened: {first_line(error)}") from error
    return filesystem, f"{parts.netloc}{parts.path}".rstrip("/")
