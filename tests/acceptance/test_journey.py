"""From a Dockerfile and files to a stranger's code running, reached, and read about."""

from tests.acceptance.api import Api

SERVER = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(open("data/greeting.txt", "rb").read() + os.environ["NAME"].encode())
        sys.stderr.write("asked\\n")

    def log_message(self, *words):
        pass

print("listening", flush=True)
HTTPServer(("", 8000), Handler).serve_forever()
"""


def test_from_files_to_an_answer_and_its_log(api: Api, python: str) -> None:
    """Files become an image, a VM of it answers under its hostname, and its output is the log."""
    dockerfile = "FROM cakework/python\nWORKDIR /app\nCOPY . .\nRUN echo built in $(pwd)\n"
    dockerfile += 'CMD ["python3", "server.py"]\n'
    files = {"server.py": SERVER, "data/greeting.txt": "hello "}
    build = api.build(dockerfile, files)
    assert build["status"] == "succeeded", build
    log = f"/v1/image/build/{build['buildId']}/logs"
    assert any("built in /app" in line for line in api.messages(log))
    with api.running(build["imageId"], port=8000, envVars={"NAME": "world"}) as vm:
        assert vm["state"] == "started"
        assert vm["hostname"].endswith(".localhost")
        assert api.visit_when_up(vm).text == "hello world"
        api.wait_for_line(vm["id"], "asked")
        lines = api.lines(f"/v1/vm/{vm['id']}/logs")
        assert [(line["level"], line["message"]) for line in lines] == [
            ("info", "listening"),
            ("error", "asked"),
        ]
    assert api.vm(vm["id"])["state"] == "destroyed"
    assert api.visit(vm).status_code == 404
    assert api.printed(vm["id"]) == ["listening", "asked"]


def test_a_program_that_ends_stops_its_vm(api: Api, busybox: str) -> None:
    """State, exit code and the whole log are there when the program is not any more."""
    vm = api.start(busybox, envVars={"SCRIPT": "echo out; echo err >&2; exit 3"})
    stopped = api.wait_for_state(vm["id"], "stopped")
    assert stopped["exitCode"] == 3
    assert stopped["reason"]
    lines = list(api.follow(f"/v1/vm/{vm['id']}/logs"))
    assert {(line["level"], line["message"]) for line in lines} == {
        ("info", "out"),
        ("error", "err"),
    }
    assert api.stop(vm["id"])["state"] == "destroyed"


def test_a_build_that_fails_says_why(api: Api, busybox: str) -> None:
    """The error names what did not work, and the log has the output up to there."""
    build = api.build("FROM cakework/busybox\nRUN echo before; exit 7\nRUN echo never\n")
    assert build["status"] == "failed"
    assert "imageId" not in build
    assert "7" in build["error"]
    log = api.messages(f"/v1/image/build/{build['buildId']}/logs")
    assert any("before" in line for line in log)
    assert not any(line == "never" for line in log)


def test_a_vm_without_a_program_to_run_is_told_about(api: Api) -> None:
    """An image whose command is not there gives a VM that says so."""
    image = api.image('FROM cakework/busybox\nCMD ["/no/such/program"]\n')
    answer = api.http.post("/v1/vm/start", json={"imageId": image})
    told = answer.text
    if answer.is_success:
        stopped = api.wait_for_state(answer.json()["id"], "stopped")
        told = stopped["reason"]
        api.stop(stopped["id"])
    assert "/no/such/program" in told


def test_vms_get_what_was_asked_for(api: Api, busybox: str) -> None:
    """Processors, memory and environment inside are those of the request."""
    script = "echo cpus $(nproc); free -m | grep Mem; echo name $NAME; echo host $(hostname); id -u"
    wanted = {"cpu": 2, "memory": 512, "envVars": {"SCRIPT": script, "NAME": "Ünïcode = x"}}
    with api.running(busybox, **wanted) as vm:
        assert (vm["cpu"], vm["memory"], vm["volumeGB"]) == (2, 512, 0)
        printed = api.wait_for_line(vm["id"], "host ")
        assert "cpus 2" in printed
        assert "name Ünïcode = x" in printed
        megabytes = int(next(line for line in printed if line.startswith("Mem")).split()[1])
        assert 400 < megabytes <= 512
