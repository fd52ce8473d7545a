"""Where secrets stand in addresses: nothing of them is shown or kept."""

from __future__ import annotations

import pytest

from understudy.errors import SpecError
from understudy.secrecy import holds_secret, is_secret, shown, without_secrets
from understudy.spec.keys import build_run

SECRET = [
    ("https://me:hunter2@host/a", "https://host/a"),
    ("https://me:hun/ter2@host/a", "https://host/a"),
    ("ftp://me:hun@ter2@host/a", "ftp://host/a"),
    ("https://ghp_hunter2@host/a", "https://host/a"),
    ("s3://AKIAhunter2@bucket/runs", "s3://bucket/runs"),
    ("postgresql://me:hunter2@host/optuna", "postgresql://host/optuna"),
    ("postgresql://host/optuna?user=me&password=hunter2", "postgresql://host/optuna?user=me&password=***"),
    (
        "https://host/f.hdf5?X-Amz-Date=1&X-Amz-Signature=hunter2",
        "https://host/f.hdf5?X-Amz-Date=1&X-Amz-Signature=***",
    ),
    ("https://host/f?AWSAccessKeyId=hunter2&Expires=1", "https://host/f?AWSAccessKeyId=***&Expires=1"),
    ("https://host/f?se=2026&sig=hunter2", "https://host/f?se=2026&sig=***"),
    ("https://host/f#token=hunter2", "https://host/f#token=***"),
    ("https://host/f?access_token=hunter2#top", "https://host/f?access_token=***#top"),
]


@pytest.mark.parametrize(("address", "without"), SECRET)
def test_a_secret_is_found_wherever_it_stands_and_taken_out_of_any_text(address, without) -> None:
    assert holds_secret(address)
    assert without_secrets(f"GET {address} failed") == f"GET {without} failed"
    assert "hunter2" not in without


@pytest.mark.parametrize(
    "address",
    [
        *(
            "http://localhost:5000/a@b",
            "sqlite:////data/me@home/mlflow.db",
            "models:/flow_bc@best",
            "s3://bucket/a?b=c",
        ),
        *("postgresql://me@host/optuna", "sftp://me@host/runs", "https://host:8080/f?monkey=1&tokens=2"),
        "abfs://container@account.dfs.core.windows.net/runs",
    ],
)
def test_what_is_no_secret_is_let_through(address) -> None:
    assert not holds_secret(address)


@pytest.mark.parametrize("key", ["encoder_weights", "save_dir", "data_dir", "run_group", "project"])
def test_a_key_for_a_path_or_a_name_takes_no_address_and_shows_no_secret_of_one(key) -> None:
    with pytest.raises(SpecError, match=rf"{key}=.*must be a (path|name)") as caught:
        build_run({key: "https://me:hunter2@host/a"})
    assert "hunter2" not in shown(str(caught.value))  # as commands print it


@pytest.mark.parametrize("address", [address for address, _ in SECRET if address.startswith(("s3", "https"))])
@pytest.mark.parametrize("key", ["checkpoint_storage", "tracking_uri"])
def test_a_key_that_would_keep_a_secret_refuses_it_and_does_not_show_it(key, address) -> None:
    with pytest.raises(SpecError, match=r"holds a password or a token") as caught:
        build_run({key: address})
    assert "hunter2" not in str(caught.value)


def test_keys_are_known_by_their_names() -> None:
    assert all(map(is_secret, ("password", "db.api_key", "aws_secret", "token")))
    assert not any(map(is_secret, ("tokens", "secretary", "key")))


@pytest.mark.parametrize(("address", "without"), SECRET)
def test_an_errors_text_is_shown_without_secrets_whatever_stands_around_them(address, without) -> None:
    assert shown(f"lr='{address}': must be a number; see sftp://me@host/runs") == (
        f"lr='{without}': must be a number; see sftp://me@host/runs"
    )
