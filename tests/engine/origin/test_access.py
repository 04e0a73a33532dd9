"""The way in, and none: endpoints, credentials, buckets."""

from pathlib import Path

import pytest

from dsfs.model.errors import AccessDeniedError, BucketMissingError, ConfigError, OriginTemporaryError
from dsfs.model.objects import ObjectRef
from dsfs.storage.origin import Origin, OriginSettings
from tests.engine.origin.sample import BUCKET, CONTENT, KEY, listed, read, settings
from tests.rig.faultproxy import FaultProxy
from tests.rig.s3server import S3Server, free_port

pytestmark = pytest.mark.usefixtures("server")  # its environment is there before a test changes it

ANY = ObjectRef(KEY, size=5, etag="e", modified_s=0)


def test_endpoint_may_come_from_the_aws_configuration(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint_url)
    origin = Origin(OriginSettings(BUCKET, endpoint_url=None, region=None))
    assert origin.origin_id == f"s3+{proxy.endpoint_url}/{BUCKET}"
    assert read(origin, listed(origin), 5, 10) == CONTENT[5:15]
    origin.close()


@pytest.mark.parametrize("endpoint_url", [None, "https://s3.eu-central-1.amazonaws.com"])
def test_bucket_at_aws_is_the_same_origin_however_it_is_reached(endpoint_url: str | None) -> None:
    origin = Origin(OriginSettings(BUCKET, endpoint_url, region="eu-central-1"))
    assert origin.origin_id == "s3://lake"
    origin.close()


@pytest.mark.parametrize("endpoint_url", ["no-scheme", "http://"])
def test_endpoint_that_is_none_is_a_configuration_error(endpoint_url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        Origin(settings(endpoint_url))


def test_profile_that_is_not_there_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="nobody"):
        Origin(settings("http://127.0.0.1:1"))


@pytest.mark.usefixtures("way")
def test_missing_bucket_is_named(proxy: FaultProxy) -> None:
    origin = Origin(settings(proxy.endpoint_url, bucket="nowhere"))
    with pytest.raises(BucketMissingError, match=r"/nowhere: answered 404 NoSuchBucket"):
        origin.list_page("", "")
    with pytest.raises(BucketMissingError, match="NoSuchBucket"):
        origin.names_below("")
    for length in (4, 5):
        with pytest.raises(BucketMissingError, match=r"/nowhere/.*NoSuchBucket"):
            read(origin, ANY, 0, length)
    origin.close()


@pytest.mark.usefixtures("way")
def test_wrong_secret_is_denied_and_no_secret_is_told(fresh_origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-of-this-key")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session-token")
    with pytest.raises(AccessDeniedError) as listing:
        fresh_origin.list_page("", "")
    with pytest.raises(AccessDeniedError) as fetching:
        read(fresh_origin, ANY, 0, 5)
    for error in (listing.value, fetching.value):
        assert "answered 403 SignatureDoesNotMatch" in str(error)
        assert "not-the-secret" not in str(error)
        assert "the-session-token" not in str(error)
        assert error.__suppress_context__


@pytest.mark.usefixtures("way")
def test_without_credentials_nothing_is_sent_until_there_are_some(
    fresh_origin: Origin, proxy: FaultProxy, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for ask in (lambda: fresh_origin.list_page("", ""), lambda: read(fresh_origin, ANY, 0, 5)):
        with pytest.raises(AccessDeniedError, match="there are no AWS credentials"):
            ask()
    assert proxy.requests == []
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    assert read(fresh_origin, listed(fresh_origin), 5, 10) == CONTENT[5:15]


@pytest.mark.usefixtures("way")
def test_public_bucket_is_read_unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with S3Server(signed=False) as public, FaultProxy(public.endpoint_url) as proxy:
        public.put(BUCKET, KEY, CONTENT)
        origin = Origin(settings(proxy.endpoint_url, unsigned=True))
        assert read(origin, listed(origin), 5, 10) == CONTENT[5:15]
        origin.close()


@pytest.mark.usefixtures("way")
def test_unreachable_endpoint_is_a_temporary_error() -> None:
    origin = Origin(settings(f"http://127.0.0.1:{free_port()}"))
    for ask in (lambda: origin.list_page("", ""), lambda: read(origin, ANY, 0, 5)):
        with pytest.raises(OriginTemporaryError, match="cannot connect"):
            ask()
    origin.close()


@pytest.mark.usefixtures("way")
def test_server_that_comes_back_is_used_again() -> None:
    with S3Server() as server, server.environment(), FaultProxy(server.endpoint_url) as proxy:
        server.put(BUCKET, KEY, CONTENT)
        origin = Origin(settings(proxy.endpoint_url))
        obj = listed(origin)
        assert read(origin, obj, 5, 10) == CONTENT[5:15]
        server.stop()
        with pytest.raises(OriginTemporaryError, match="the connection"):
            read(origin, obj, 5, 10)
        assert origin.last_error is not None
        server.start()
        assert read(origin, obj, 5, 10) == CONTENT[5:15]
        assert origin.last_success_at is not None
        assert origin.last_success_at >= origin.last_error[0]
        assert origin.failures() == {"temporary": 1}
        origin.close()


def test_unreadable_certificate_bundle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    origin = Origin(settings("https://127.0.0.1:1"))
    with pytest.raises(ConfigError, match=r"AWS_CA_BUNDLE: cannot read .*missing\.pem"):
        read(origin, ANY, 0, 5)
    origin.close()
