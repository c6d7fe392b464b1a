"""A page behind a proxy with TLS, as docs/service.md advises: which origins change something, and a real nginx."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgebcnn.errors import SinkError
from edgebcnn.web.listening import listen
from tests.broker import free_port, wait_until
from tests.web_run import TOKEN, asked, web_page

ORIGIN = "https://shelf.example"
SERVICE = Path(__file__).parents[1] / "docs" / "service.md"


NOT_ALLOWED = 405  # what the page says to a POST that its guard let through


@pytest.mark.parametrize("host", ["shelf.example", "127.0.0.1:8080"], ids=["passed on", "rewritten"])
def test_a_page_behind_a_proxy_takes_what_it_sends_itself_whether_the_host_is_passed_on_or_not(host: str) -> None:
    with web_page(token=TOKEN, origin=ORIGIN) as (_, at):
        known = {"Host": host, "Authorization": f"Bearer {TOKEN}"}
        assert asked(at.port, "/", "POST", **known, Origin=ORIGIN).status == NOT_ALLOWED
        assert asked(at.port, "/", **known).status == 200
        for other in ("https://evil.example", "http://shelf.example:81", "null", f"{ORIGIN}.evil.example"):
            assert asked(at.port, "/", "POST", **known, Origin=other).status == 403
        assert asked(at.port, "/", "POST", Host=host, Origin=ORIGIN).status == 401, "the token is still needed"


def test_what_a_page_elsewhere_may_claim_lets_nobody_in() -> None:
    claims = {"X-Forwarded-Host": "127.0.0.1", "X-Forwarded-Proto": "https", "Forwarded": "host=127.0.0.1"}
    with web_page() as (_, at):
        assert asked(at.port, "/", Host="evil.example", **claims).status == 403
        assert asked(at.port, "/", "POST", Host="127.0.0.1:8080", Origin=ORIGIN, **claims).status == 403


def test_the_cookie_is_for_https_alone_where_it_was_given_through_the_proxy() -> None:
    with web_page(token=TOKEN, origin=ORIGIN) as (_, at):
        through = asked(at.port, f"/?token={TOKEN}", **{"X-Forwarded-Proto": "https"}).headers["Set-Cookie"]
        beside = asked(at.port, f"/?token={TOKEN}").headers["Set-Cookie"]
        assert ("Secure" in through, "Secure" in beside) == (True, False)


def test_an_origin_makes_a_local_page_need_a_token_and_is_printed_in_its_place() -> None:
    listening = listen("0", None, origin="HTTPS://Shelf.Example:443/")
    with listening.socket:
        assert listening.origin == ORIGIN
        assert str(listening) == f"the page is at {ORIGIN}/?token={listening.token}"


@pytest.mark.parametrize(
    "origin", ["shelf.example", "ftp://shelf.example", "https://a@b", "https://a/b", "https://a:b"]
)
def test_what_is_no_origin_is_one_sentence(origin: str) -> None:
    with pytest.raises(SinkError, match=r"--web-origin .* is not an origin: give scheme and name alone"):
        listen("0", None, origin=origin)


# ---- a real proxy


def recipe(port: int, page: int, folder: Path) -> str:
    """The nginx server of docs/service.md, with a port and a certificate of the test's own."""
    found = re.search(r"```nginx\n(.*?)```", SERVICE.read_text(), re.DOTALL)
    assert found
    server = found[1].replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    server = server.replace("127.0.0.1:8080", f"127.0.0.1:{page}").replace("/etc/ssl/", f"{folder}/")
    return f"""
daemon off; pid {folder}/pid; error_log {folder}/errors;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
{server}
}}
"""


@contextmanager
def nginx(page: int, folder: Path) -> Iterator[int]:
    """Yields the port of an nginx in front of a page."""
    command = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if command is None or shutil.which("openssl") is None:
        pytest.skip("there is no nginx or openssl: apt install nginx-light openssl")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=shelf.example"),
            *("-keyout", f"{folder}/shelf.key", "-out", f"{folder}/shelf.crt"),
        ],
        check=True,
        capture_output=True,
    )
    port = free_port()
    (folder / "nginx.conf").write_text(recipe(port, page, folder))
    process = subprocess.Popen([command, "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        wait_until(lambda: status(port, "/nowhere", process=process) != 0)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def connection(port: int) -> http.client.HTTPSConnection:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)


def status(port: int, path: str, *, process: subprocess.Popen[bytes]) -> int:
    """0 while nginx does not answer yet."""
    assert process.poll() is None, "nginx refused the recipe"
    try:
        client = connection(port)
        client.request("GET", path, headers={"Host": "shelf.example"})
        return client.getresponse().status
    except OSError:
        return 0


def test_the_nginx_recipe_of_the_docs_shows_a_live_page_over_tls(tmp_path: Path) -> None:
    with web_page(token=TOKEN, origin=ORIGIN) as (_, at), nginx(at.port, tmp_path) as port:
        client = connection(port)
        client.request("GET", f"/?token={TOKEN}", headers={"Host": "shelf.example"})
        answer = client.getresponse()
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
        assert (answer.status, answer.read()) == (303, b"")
        client = connection(port)
        began_s = time.monotonic()
        client.request("GET", "/api/stream", headers={"Host": "shelf.example", "Cookie": cookie})
        line = client.getresponse().readline()
        assert json.loads(line.removeprefix(b"data: "))["device"] == "shelf-3"
        assert time.monotonic() - began_s < 5, "the proxy must not keep the stream back"
