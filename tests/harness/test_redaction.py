"""What is secret is hidden in every form it may come in; ordinary text stays as it is."""

import pytest

from harness.redaction import redact, redact_command

# Every form hides what it holds of these.
SECRETS = ("S3cr", "hunter", "p@ss", "pa/ss", "pa#ss", "pa?ss", "p%40ss", "opera", "1234")
FORMS = [
    "--api-key=S3cr3t",
    "--api-key S3cr3t",
    "--api_key S3cr3t --port 80",
    "--api-key 'S3cr3t hunter2'",
    "--ngrok-authtoken=S3cr3t",
    "--ngrok-authtoken S3cr3t",
    "--hf-token S3cr3t",
    "--hf_token=S3cr3t",
    "--password S3cr3t",
    "-e HUGGING_FACE_HUB_TOKEN=S3cr3t",
    "--env=HUGGING_FACE_HUB_TOKEN=S3cr3t",
    "-eHF_TOKEN=S3cr3t",
    "HF_TOKEN=S3cr3t",
    'HF_TOKEN="S3cr3t hunter2"',
    "KEY=S3cr3t",
    "AWS_SECRET_ACCESS_KEY=S3cr3t/hunter+2=",
    "AWS_ACCESS_KEY_ID=S3cr3t",
    "DB_PASSWORD=S3cr3t",
    "PASSWD=S3cr3t",
    "ADMIN_PWD=S3cr3t",
    "DB_PASS=S3cr3t",
    "BASIC_AUTH=opera:hunter2",
    "CLIENT_SECRET2=S3cr3t",
    "api_key = S3cr3t",
    "password: S3cr3t",
    'Args { api_key: Some("S3cr3t"), port: 80 }',
    "opera:S3cr3t@host.example",
    "opera:p@ss@10.0.0.5:554",
    "cannot open opera:S3cr3t@cam: refused",
    "http://opera:S3cr3t@host/path",
    "http://S3cr3t@host/path",
    "rtsp://opera:p@ss@host/stream",
    "RTSP://opera:S3cr3t@host/stream",
    "Rtsp://opera:pa/ss@host/stream",
    "rtsp://opera:pa#ss@host:554/stream",
    "rtsp://opera:pa?ss@host:554/stream",
    "rtsp://opera:p%40ss@host:554/stream",
    "rtsp://opera:12345/pa/ss@host",
    "rtsp://op/era:S3cr3t@host/",
    'rtsp://opera:S3"cr3t@host/',
    "rtsp://opera:S3cr3t hunter2@host/stream",
    "cannot read (http://opera:S3cr3t@host/path)",
    "postgresql+psycopg://opera:S3cr3t@host/db",
    "http://host/path?user=opera&password=S3cr3t",
    "http://host/path?usr=opera&pwd=S3cr3t&size=2",
    "http://host/cgi?loginuse=opera&loginpas=S3cr3t",
    "http://host/path?token=S3cr3t",
    "http://host/path?x=1&TOKEN=S3cr3t",
    "http://host/path?api_key=S3cr3t&access_key=hunter2",
    "http://host/path?apiKey=S3cr3t",
    "http://host/path?api%5Fkey=S3cr3t",
    "http://host/path?sig=S3cr3t%2Bhunter",
    "http://host/path?signature=S3cr3t",
    "http://host/path?auth=S3cr3t",
    "http://host/path?key=S3cr3t",
    "http://host/path?password=S3cr3t&hunter2",
    "http://host/path?password=S3cr3t#hunter2",
    "https://host/x?X-Amz-Credential=S3cr3t&X-Amz-Signature=S3cr3t&X-Amz-Expires=60",
    "https://host/x?AWSAccessKeyId=S3cr3t&Expires=1",
    "https://host/x?a=1&amp;token=S3cr3t",
    "https://host/x#access_token=S3cr3t",
    "https://host/x;jsession=1;sid=S3cr3t",
    "/snapshot.cgi?user=opera&pwd=S3cr3t",
    "Authorization: Bearer S3cr3t",
    "authorization: Basic S3cr3t==",
    "-H 'Authorization: Bearer S3cr3t'",
    'Authorization: Digest username="opera", response="S3cr3t"',
    "Proxy-Authorization: Basic S3cr3t",
    "X-API-Key: S3cr3t",
    "Cookie: session=S3cr3t; other=hunter2",
    "curl said Bearer S3cr3t-hunter2",
    '{"api_key": "S3cr3t", "port": 80}',
    '{"api_key":"S3\\"cr3t hunter2"}',
    "{'password': 'S3cr3t hunter2'}",
    '"{\\"api_key\\": \\"S3cr3t hunter2\\"}"',
    '{"url":"http://opera:S3cr3t@host/x","port":80}',
    '["--api-key", "S3cr3t", "--port", "80"]',
    "['--api-key', 'S3cr3t']",
    "Downloading with hf_S3cr3tS3cr3tS3cr3t now",
    "http://host/hf_S3cr3tS3cr3tS3cr3t/file",
    "the key is sk-proj-S3cr3tS3cr3tS3cr3t",
    "token: S3cr3tS3cr3tS3cr3t",
    "authorization=Bearer S3cr3t",
    "Set-Cookie: S3cr3t; hunter",
    "rtmp://h/live?streamkey=S3cr3t",
    "//opera:S3cr3t@host/x",
]
INNOCENT = [
    "--max-total-tokens 4096",
    "--max_new_tokens=100",
    "--tokenizer-config-path /data/tokenizer.json",
    "--tokenizer model",
    "tokens=5",
    "max_tokens = 5",
    "time_per_token=0.02",
    "x-time-per-token: 25",
    "time per output token: 25.1 ms",
    "1 token: 0.2 s",
    "eos_token=</s>",
    "eos_token_id=2",
    "num_key_value_heads=8",
    "--key-frames 5",
    "keyframe=3, monkey=4, author=me",
    "argument --api-key: expected one argument",
    "/data/keys/model.bin",
    "results/token_counts.json: written",
    "write to me@example.org or you.two@example.com",
    "mailto:me@example.org",
    "git@github.com:org/repo.git",
    "ghcr.io/huggingface/text-generation-inference:1.1.0@sha256:0123456789abcdef",
    "tgi:3.3.4@sha256:0123456789abcdef",
    "http://127.0.0.1:8080/generate",
    "http://registry.example/@scope/package",
    "https://host/path?size=large&page=2#section",
    "rtsp://10.0.0.5:554/stream?channel=1",
    "hf_hub_download and hf_transfer",
    "HF_HOME=/data/hf TOKEN_FILE=/run/token",
    "task-runner-for-the-new-2-models",
    "8 tokens, 2 passes; pass 1 of 2",
    "at 10:30 @ noon",
    "C:\\models\\key.bin",
    "Bearer authentication is required",
    '{"max_new_tokens": 100, "token_type": "bpe"}',
    "sha256 cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
    "a == b, key == c",
    "",
]


@pytest.mark.parametrize("text", FORMS)
def test_a_secret_is_hidden_in_a_text_and_on_a_command_line(text):
    for shown in (redact(text), " ".join(redact_command([text]))):
        assert "***" in shown and not any(part in shown for part in SECRETS), shown
        assert redact(shown) == shown
    words = text.split()
    shown = " ".join(redact_command(words))
    if len(words) == 2 and words[0].startswith("-"):
        assert "***" in shown and not any(part in shown for part in SECRETS), shown


@pytest.mark.parametrize("text", INNOCENT)
def test_ordinary_text_stays_as_it_is(text):
    assert redact(text) == text
    assert redact_command([text]) == [text]
    assert redact_command(text.split()) == text.split()


@pytest.mark.parametrize(
    "text, shown",
    [
        ("rtsp://me:p@ss@cam:554/s?token=abc&size=2", "rtsp://***@cam:554/s?token=***&size=2"),
        (
            "no answer at http://h/x?token=abc: refused",
            "no answer at http://h/x?token=***: refused",
        ),
        ("('http://h/x?token=abc', 3)", "('http://h/x?token=***', 3)"),
        ("http://me@h/a/@b", "http://***@h/a/@b"),
        ("--api-key abc --port 80", "--api-key *** --port 80"),
        ("--api-key --port 80", "--api-key --port 80"),
        ("HF_TOKEN= python x", "HF_TOKEN= python x"),
        ('{"hf_token":null,"x":1}', '{"hf_token":***,"x":1}'),
        ('{"api_key": "abc", "port": 80}', '{"api_key": "***", "port": 80}'),
        ("-H 'Authorization: Bearer abc' -n 5", "-H 'Authorization: ***' -n 5"),
    ],
)
def test_what_is_left_can_be_recognized(text, shown):
    assert redact(text) == shown


@pytest.mark.parametrize(
    "words, shown",
    [
        (["--api-key", "two words"], ["--api-key", "***"]),
        (["--api-key", "-abc"], ["--api-key", "***"]),
        (["--api-key", "--port"], ["--api-key", "--port"]),
        (["-e", 'PASSWORD=a "b" c'], ["-e", "PASSWORD=***"]),
        (["-u", "me:secret"], ["-u", "***"]),
        (["-u", "root"], ["-u", "root"]),
        (["--url=http://me:x y@h/"], ["--url=http://***@h/"]),
        (["--max-total-tokens", "4096"], ["--max-total-tokens", "4096"]),
    ],
)
def test_a_command_line_is_read_word_by_word(words, shown):
    assert redact_command(words) == shown


def test_a_hostile_text_takes_no_long_time_to_read():
    for piece in ("a://", "a=", "://@:", '"', "a:b@", "hf_", "token: ", "?key=&", "-"):
        redact(piece * (20_000 // len(piece)))
