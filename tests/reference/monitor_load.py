"""monitor_load.py - how much a training run loses while its page is asked 1000 times a second.

    python3 tests/reference/monitor_load.py build/rlhf PAIRS RUN_DIR TRAINING-COMMAND...

Runs the command (which must write to RUN_DIR, with --run.overwrite) PAIRS times alone and PAIRS times under load, in turns,
and prints the times, the rate that was reached, latencies, and the page's own processor time. The client runs on the same
machine at the lowest priority, so that on few cores its work is not taken for the page's."""
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time

RATE, CONNECTIONS = 1000, 4


def processor_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Client(threading.Thread):
    def __init__(self, port, stop):
        super().__init__()
        self.port, self.stop, self.latencies, self.at = port, stop, [], ["0-0"] * 3

    def run(self):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        s = socket.create_connection(("127.0.0.1", self.port))
        due = time.monotonic()
        while not self.stop.is_set():
            due += CONNECTIONS / RATE
            time.sleep(max(0, due - time.monotonic()))
            began = time.monotonic()
            s.sendall(f"GET /tail?run=0&metrics={self.at[0]}&samples={self.at[1]}&alarms={self.at[2]} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += s.recv(1 << 16)
            head, body = answer.split(b"\r\n\r\n", 1)
            length = int(re.search(rb"Content-Length: (\d+)", head).group(1))
            while len(body) < length:
                body += s.recv(1 << 16)
            self.latencies.append(time.monotonic() - began)
            news = json.loads(body)
            self.at = [news[log]["at"] if log in news else "0-0" for log in ("metrics", "samples", "alarms")]


def train(command):
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def train_under_load(rlhf, folder, command):
    server = subprocess.Popen([rlhf, "monitor", folder, "--port", "0"], stdout=subprocess.PIPE, text=True)
    port = int(server.stdout.readline().rsplit(":", 1)[1].strip("/\n"))
    job, stop = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), threading.Event()
    began = time.monotonic()
    clients = [Client(port, stop) for _ in range(CONNECTIONS)]
    for c in clients:
        c.start()
    assert job.wait() == 0
    seconds = time.monotonic() - began
    stop.set()
    for c in clients:
        c.join()
    used = processor_seconds(server.pid)
    server.terminate()
    server.wait()
    latencies = sorted(x for c in clients for x in c.latencies)
    print(f"  {len(latencies) / seconds:.0f} requests/s, latency median {1e3 * statistics.median(latencies):.2f} ms, "
          f"99 % {1e3 * latencies[len(latencies) * 99 // 100]:.1f} ms; the page used {100 * used / seconds:.1f} % of one core")
    return seconds


rlhf, pairs, folder, command = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
alone, loaded = [], []
train(command)
for _ in range(pairs):
    alone.append(train(command))
    loaded.append(train_under_load(rlhf, folder, command))
    print(f"alone {alone[-1]:.2f} s, under load {loaded[-1]:.2f} s", flush=True)
slower = statistics.median(b / a for a, b in zip(alone, loaded)) - 1
print(f"median {statistics.median(alone):.2f} s and {statistics.median(loaded):.2f} s; median of the pairs {100 * slower:+.2f} %")
