"""Programs that the tests run in VMs. Both images run what ``envVars.SCRIPT`` holds."""

from cakework.node.network.namespaces import GATEWAY

BUSYBOX = 'FROM cakework/busybox\nCMD ["sh", "-c", "eval \\"$SCRIPT\\""]\n'
PYTHON = (
    'FROM cakework/python\nCMD ["python3", "-u", "-c", "import os; exec(os.environ[\'SCRIPT\'])"]\n'
)

COUNT = """
i=0
while [ $i -lt $LAST ]; do i=$((i+1)); echo "line $i"; usleep 15000; done
echo done
sleep 1000
"""

WEB = """
mkdir -p /www
echo "hello from $NAME" > /www/index.html
echo ready
exec httpd -f -p 8000 -h /www
"""

IDLE = "echo up; exec sleep 100000"

ABUSE = {
    "noise": "exec yes 'noise, again and again, until somebody stops it'",
    "filling": "echo filling; cat /dev/zero > /fill; echo full; exec sleep 100000",
    "forking": "f() { f | f & }; echo forking; f; while :; do f; done",
    "eating": "echo eating; exec tail /dev/zero",
}
"""Abusive scripts, by what each prints before it is at it."""

CONNECT = """
import concurrent.futures, socket, json
def outcome(target):
    host, port = target
    try:
        socket.create_connection((host, port), 15).close()
        return f"{host}:{port} reached"
    except OSError as error:
        return f"{host}:{port} {type(error).__name__}"
with concurrent.futures.ThreadPoolExecutor(16) as threads:
    for line in threads.map(outcome, json.loads(os.environ["TARGETS"])):
        print(line, flush=True)
print("tried all", flush=True)
"""

DATAGRAMS = """
import json, select, socket, time
mark = os.environ["MARK"].encode()
# A question for the address of <mark>, as a resolver would answer it.
question = b"cw" + bytes.fromhex("01000001000000000000")
question += bytes([len(mark)]) + mark + bytes.fromhex("0000010001")
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
targets = [tuple(target) for target in json.loads(os.environ["TARGETS"])]
awaited = set(json.loads(os.environ["AWAITED"]))
answered, tries, late = set(), 0, time.monotonic() + 60
while tries < 3 or (awaited - {host for host, _ in answered} and time.monotonic() < late):
    tries += 1
    for target in targets:
        try:
            sender.sendto(question, target)
        except OSError:
            pass
    ends = time.monotonic() + 0.7
    while select.select([sender], [], [], max(0, ends - time.monotonic()))[0]:
        try:
            answered.add(sender.recvfrom(2048)[1])
        except OSError:
            pass
for target in targets:
    print(*target, "reached" if target in answered else "silent", flush=True)
print("tried all", flush=True)
"""
"""Sends datagrams to TARGETS, and prints from which of them an answer came. Tries longer while
none has come from one of the hosts that are AWAITED."""

HEAR_DATAGRAMS = """
import socket
hearing = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
hearing.bind(("0.0.0.0", 8000))
hearing.sendto(b"itself", ("127.0.0.1", 8000))
while True:
    print("heard", hearing.recvfrom(2048)[0].decode(errors="replace"), flush=True)
"""

IPV6 = """
import json, socket
links = [line.split()[-1] for line in open("/proc/net/if_inet6")]
print("links with IPv6:", *sorted(set(links) - {"lo"}), flush=True)
for host, port in json.loads(os.environ["TARGETS"]):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        tried = socket.socket(socket.AF_INET6, kind)
        tried.settimeout(2)
        print(host, tried.connect_ex((host, port)), flush=True)
print("tried all", flush=True)
"""
"""Prints the links that have IPv6, and the error of connecting to each of TARGETS."""

KEEP_TRYING = f"""
import socket, time
print("waiting", flush=True)
while True:
    try:
        socket.create_connection(("{GATEWAY}", 8000), 1).close()
        print("reached", flush=True)
    except OSError as error:
        print("not reached", flush=True)
    time.sleep(0.2)
"""

LISTEN = """
import socket, sys
server = socket.create_server(("0.0.0.0", 8000), backlog=64)
socket.create_connection((sys.argv[1], 8000), 30).close()
print("listening", flush=True)
while True:
    server.accept()[0].close()
"""

ROUTER_PARTNER = """
import base64, hashlib, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
WANTED = threading.Semaphore(0)

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("Upgrade") == "websocket":
            self.echo_frames()
        elif self.path == "/events":
            self.send_events()
        elif self.path == "/next":
            WANTED.release()
            self.tell(b"")
        else:
            self.tell(b"GET " + self.path.encode() + b" " + self.headers["Host"].encode())

    def do_POST(self):
        digest = hashlib.sha256()
        left = int(self.headers["Content-Length"])
        while left:
            piece = self.rfile.read(min(left, 65536))
            digest.update(piece)
            left -= len(piece)
        self.tell(digest.hexdigest().encode())

    def tell(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(5):
            event = b"data: %d\\n\\n" % number
            self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(event), event))
            WANTED.acquire()
        self.wfile.write(b"0\\r\\n\\r\\n")

    def echo_frames(self):
        key = self.headers["Sec-WebSocket-Key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        self.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade")):
            self.send_header(name, value)
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        while True:
            opcode, text = self.frame()
            self.wfile.write(bytes([0x80 | opcode]) + self.length(text) + text)
            if opcode == 8:
                self.close_connection = True
                return

    def frame(self):
        first, second = self.rfile.read(2)
        size = second & 127
        if size == 126:
            size = int.from_bytes(self.rfile.read(2), "big")
        mask = self.rfile.read(4)
        data = self.rfile.read(size)
        return first & 15, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))

    def length(self, text):
        if len(text) < 126:
            return bytes([len(text)])
        return bytes([126]) + len(text).to_bytes(2, "big")

print("ready", flush=True)
ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""
