"""A store that is lost while a program starts: one line, exit code 2; its service manager starts it again."""

import signal
import sys

import pytest
import structlog
from reply_proxy import ReplyProxy

from serving.cli import main

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("store", ["redis", "postgres"])
def test_an_answer_lost_at_the_start_is_told_in_one_line(stores, monkeypatch, capfd, tmp_path, store):
    settings = stores.settings
    url = settings.redis_url if store == "redis" else settings.database_url
    host, _, rest = url.rpartition("@")[2].partition("/")[0].partition(":")
    proxy = ReplyProxy((host, int(rest)))
    through = url.replace(f":{rest}/", f":{proxy.port}/")
    monkeypatch.setenv("DATABASE_URL", through if store == "postgres" else settings.database_url)
    monkeypatch.setenv("REDIS_URL", through if store == "redis" else settings.redis_url)
    monkeypatch.setenv("MONGODB_URI", settings.mongodb_uri)
    monkeypatch.setenv("PULSEBMS_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["pulsebms", "dispatch", "--site", "nowhere"])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    codes = set()
    try:
        for passed in range(12):
            proxy.drop_after, proxy.drop_next = passed, 1
            with pytest.raises(SystemExit) as ended:
                main()
            codes.add(ended.value.code)
            out, err = capfd.readouterr()
            assert "Traceback" not in out + err
            assert len(err.strip().splitlines()) < 5
    finally:
        proxy.cut()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        structlog.reset_defaults()
    assert codes == {2}
    assert len(proxy.lost) >= 3, "too few answers were lost to show anything"
