"""A network camera: an RTSP server (RFC 2326) that sends a video in real time, over and over.

It goes as MPEG-TS in RTP (RFC 2250) on the RTSP connection itself.
"""

import io
import socket
import socketserver
import struct
import threading
import time

import av

TS_PACKET_BYTES, PACKETS_A_DATAGRAM, MP2T, CLOCK_HZ = 188, 7, 33, 90_000
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 33\r\na=control:track1\r\n"
)


def transport_stream(path) -> tuple[bytes, float]:
    """A video file as MPEG-TS, a keyframe twice a second, and its length in seconds."""
    buffer = io.BytesIO()
    with av.open(str(path)) as source, av.open(buffer, "w", format="mpegts") as target:
        video = source.streams.video[0]
        stream = target.add_stream(
            "libx264", rate=video.average_rate, options={"g": "5", "preset": "ultrafast", "bf": "0"}
        )
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        count = 0
        for count, frame in enumerate(source.decode(video), 1):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return buffer.getvalue(), count / float(video.average_rate)


class Camera:
    """Serves `path` at rtsp://127.0.0.1:port/ between start() and stop(), any number of times."""

    def __init__(self, path):
        self.data, self.duration_s = transport_stream(path)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.connections, self.played, self.server = [], 0, None

    def start(self):
        camera = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                camera.connections.append(self.connection)
                try:
                    self.converse()
                except (OSError, ValueError):
                    pass

            def converse(self):
                while request := self.rfile.readline().decode():
                    headers = {}
                    while line := self.rfile.readline().decode().strip():
                        name, _, value = line.partition(":")
                        headers[name.lower()] = value.strip()
                    method = request.split()[0]
                    more, body = "", ""
                    if method == "OPTIONS":
                        more = "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                    elif method == "DESCRIBE":
                        more, body = (
                            f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n",
                            SDP,
                        )
                    elif method == "SETUP":
                        if "interleaved" not in headers["transport"]:
                            self.answer("461 Unsupported Transport", headers)
                            continue
                        more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
                    elif method == "PLAY":
                        more = "Session: 1\r\n"
                    self.answer("200 OK", headers, more, body)
                    if method == "PLAY":
                        self.play()

            def answer(self, status, headers, more="", body=""):
                self.wfile.write(
                    f"RTSP/1.0 {status}\r\nCSeq: {headers['cseq']}\r\n{more}\r\n{body}".encode()
                )

            def play(self):
                camera.played += 1
                size = TS_PACKET_BYTES * PACKETS_A_DATAGRAM
                begins_s, sequence = time.monotonic(), 0
                while True:
                    for offset in range(0, len(camera.data), size):
                        due_s = begins_s + camera.duration_s * offset / len(camera.data)
                        time.sleep(max(0.0, due_s - time.monotonic()))
                        payload = camera.data[offset : offset + size]
                        stamp = int((due_s - begins_s) * CLOCK_HZ) & 0xFFFFFFFF
                        rtp = (
                            struct.pack("!BBHII", 0x80, MP2T, sequence & 0xFFFF, stamp, 1) + payload
                        )
                        self.wfile.write(struct.pack("!cBH", b"$", 0, len(rtp)) + rtp)
                        sequence += 1
                    begins_s += camera.duration_s

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.connections.clear()

    @property
    def address(self) -> str:
        return f"rtsp://operator:secret@127.0.0.1:{self.port}/stream"
