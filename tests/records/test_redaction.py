import pytest

from confreg.records.redaction import REDACTED, names_a_secret, redacted


@pytest.mark.parametrize(
    "key", ["hf_token", "token", "apiKey", "api_key", "WANDB_API_KEY", "db-password", "client_secret", "access_key", "credentials"]
)
def test_a_key_that_promises_a_secret_is_recognised(key):
    assert names_a_secret(key)


@pytest.mark.parametrize(
    "key", ["tokenizer", "tokens_seen", "token_counts", "text_field", "n_scored_per_block", "characters_per_token", "monkey", ""]
)
def test_words_of_this_field_are_not_taken_for_secrets(key):
    assert not names_a_secret(key)


def test_secrets_go_wherever_they_stand_and_everything_else_stays():
    value = {"extra": {"spy": {"hf_token": "canary", "token": ""}}, "list": [{"password": ["canary"]}], "seed": 3, "name": None}
    assert redacted(value) == {
        "extra": {"spy": {"hf_token": REDACTED, "token": ""}},
        "list": [{"password": REDACTED}],
        "seed": 3,
        "name": None,
    }
    assert value["extra"]["spy"]["hf_token"] == "canary"


def test_neurons_of_a_group_are_no_secret_whatever_its_name():
    groups = {"rare_token": [3, 17], "secret": [3, "17"], "auth": [True], "password": 3}
    assert redacted(groups) == {"rare_token": [3, 17], "secret": REDACTED, "auth": REDACTED, "password": REDACTED}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://me:canary@host/path?x=1", f"https://{REDACTED}@host/path?x=1"),
        ("see s3://canary@bucket and go", f"see s3://{REDACTED}@bucket and go"),
        ("https://host/path@version", "https://host/path@version"),
        ("me@example.org", "me@example.org"),
    ],
)
def test_addresses_lose_their_user_part_only(address, expected):
    assert redacted(address) == expected
