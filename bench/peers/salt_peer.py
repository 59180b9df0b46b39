"""Salt, for `make bench-peers`: one master, minions that insist on its signature and sign what they answer.

    salt_peer.py measure FOLDER SIMULATED REAL    what all simulated minions take; with real ones, also what one of each takes;
                                                  a line of JSON
    salt_peer.py minions FOLDER COUNT             simulated minions, on Salt's own channels; started by the first

A simulated minion pays for the channel and its keys, and for nothing else: it loads no modules and forks for no job.
"""

import asyncio
import functools
import json
import pathlib
import resource
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import salt.channel.client
import salt.client
import salt.config
import salt.crypt

PROGRAMS = pathlib.Path(salt.__file__).resolve().parent.parent / "bin"
ONE_AFTER_THE_OTHER = 100
BROADCASTS = 5
ONE_REAL = 30
# Callers at the same time, and how often each calls.
AT_ONCE = 16
EACH = 20
DEADLINE = 120


def configure(folder: pathlib.Path) -> None:
    """Writes what master and minions read; the ports were free a moment ago."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    publish, answer = (holder.getsockname()[1] for holder in holders)
    for holder in holders:
        holder.close()
    shared = {"user": "root", "root_dir": str(folder), "log_level_logfile": "error", "publish_port": publish, "sign_pub_messages": True}
    master = {
        "interface": "127.0.0.1", "ret_port": answer, "auto_accept": True, "require_minion_sign_messages": True,
        # A default that the master lacks.
        "signing_algorithm": "PKCS1v15-SHA1",
        "worker_threads": 2, "timeout": DEADLINE, "gather_job_timeout": DEADLINE, "sock_pool_size": 4,
    }
    minion = {"id": "simulated", "master": "127.0.0.1", "master_port": answer, "minion_sign_messages": True, "mine_enabled": False}
    write(folder / "etc/master", shared | master)
    write(folder / "etc/minion", shared | minion)


def write(path: pathlib.Path, options: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # What is JSON is YAML.
    path.write_text(json.dumps(options))


def real_minion(folder: pathlib.Path, number: int) -> subprocess.Popen:
    """With a folder, and so with keys, of its own."""
    own = folder / f"real{number}"
    options = json.loads((folder / "etc/minion").read_text())
    write(own / "etc/minion", options | {"id": f"real{number}", "root_dir": str(own)})
    return start("salt-minion", own)


def start(name: str, folder: pathlib.Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, PROGRAMS / name, "-c", folder / "etc", "-l", "critical"], stdout=sys.stderr)


async def minion(options: dict, name: str) -> None:
    """Answers each job that is for it, until the process ends."""
    options = {**options, "id": name}
    published = salt.channel.client.AsyncPubChannel.factory(options)
    await published.connect()
    answers = salt.channel.client.AsyncReqChannel.factory(options)
    await answers.connect()
    under_way = set()

    async def answer(job: dict) -> None:
        # The channel signs it.
        load = {"cmd": "_return", "id": name, "jid": job["jid"], "fun": job["fun"], "fun_args": [], "return": True, "retcode": 0, "success": True}
        await answers.send(load, timeout=DEADLINE)

    async def hear(payload: dict) -> None:
        job = payload["load"]
        if job["tgt"] == name or job["tgt"] == "simulated*":
            task = asyncio.ensure_future(answer(job))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    published.on_recv(hear)


def keep_keys() -> None:
    """Keys are read once, and not with each message: all these minions share one core, and real ones do not."""
    for kind in (salt.crypt.PrivateKey, salt.crypt.PublicKey):
        read = functools.cache(kind.from_file)
        kind.from_file = staticmethod(read)


async def minions(folder: pathlib.Path, count: int) -> None:
    keep_keys()
    options = dict(salt.config.minion_config(str(folder / "etc/minion")))
    options["master_ip"] = "127.0.0.1"
    # They share one key pair.
    pathlib.Path(options["pki_dir"]).mkdir(parents=True, exist_ok=True)
    options["master_uri"] = f"tcp://127.0.0.1:{options['master_port']}"
    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*(minion(options, f"simulated{number}") for number in range(first, min(first + AT_ONCE, count))))
    print("connected", flush=True)
    await asyncio.Event().wait()


def cpu(processes: list[int]) -> float:
    """Seconds of CPU of processes, with those that they have waited for."""
    ticks = 0
    for process in processes:
        try:
            fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        except FileNotFoundError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / 100


def family(process: int) -> list[int]:
    """A process and those below it."""
    members, rest = [], [process]
    while rest:
        one = rest.pop()
        members.append(one)
        try:
            tasks = list(pathlib.Path(f"/proc/{one}/task").iterdir())
        except FileNotFoundError:
            continue
        for task in tasks:
            rest += map(int, (task / "children").read_text().split())
    return members


def memory(processes: list[int]) -> int:
    """Proportional set size, KiB."""
    total = 0
    for process in processes:
        lines = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def ping(local: salt.client.LocalClient, target: str, expected: int, form: str = "glob") -> float:
    begin = time.monotonic()
    answered = local.cmd(target, "test.ping", tgt_type=form, timeout=DEADLINE)
    seconds = time.monotonic() - begin
    wrong = [name for name, said in answered.items() if said is not True]
    if len(answered) != expected or wrong:
        sys.exit(f"{len(answered)} of {expected} answered, {len(wrong)} of them wrongly")
    return seconds


def known(folder: pathlib.Path, count: int) -> None:
    """Waits until the master has accepted so many."""
    accepted = folder / "etc/salt/pki/master/minions"
    until = time.monotonic() + DEADLINE
    while len(list(accepted.glob("*"))) < count:
        if time.monotonic() > until:
            sys.exit(f"{len(list(accepted.glob('*')))} of {count} minions were accepted in {DEADLINE} s")
        time.sleep(0.1)


def measure_one(folder: pathlib.Path, local: salt.client.LocalClient, master: int, simulated: int, real: int, others: list) -> dict:
    """What one simulated minion takes, then what real ones take; adds these to the processes that are to be ended."""
    one = sorted(ping(local, "simulated0", 1, "list") for _ in range(ONE_AFTER_THE_OTHER))
    clients = [salt.client.LocalClient(str(folder / "etc/master")) for _ in range(AT_ONCE)]
    begin = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda own: [ping(own, "simulated0", 1, "list") for _ in range(EACH)], clients))
    rate = AT_ONCE * EACH / (time.monotonic() - begin)
    held = memory(family(master))
    others += [real_minion(folder, number) for number in range(real)]
    known(folder, simulated + real)
    for number in range(real):
        until = time.monotonic() + DEADLINE
        while not local.cmd(f"real{number}", "test.ping", tgt_type="list", timeout=5):
            if time.monotonic() > until:
                sys.exit(f"real{number} does not answer")
    real_one = sorted(ping(local, "real0", 1, "list") for _ in range(ONE_REAL))
    real_all = [ping(local, "real*", real) for _ in range(BROADCASTS)]
    return {
        "one_p50_ms": statistics.median(one) * 1e3,
        "one_p99_ms": one[len(one) * 99 // 100] * 1e3,
        "commands_per_s": rate,
        "server_pss_kb": held,
        "real_one_p50_ms": statistics.median(real_one) * 1e3,
        "real_all_s": statistics.median(real_all),
    }


def measure(folder: pathlib.Path, simulated: int, real: int) -> dict:
    configure(folder)
    master = start("salt-master", folder)
    others = []
    try:
        # A minion that finds no master waits and comes again.
        begin = time.monotonic()
        command = [sys.executable, __file__, "minions", folder, str(simulated)]
        swarm = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        others.append(swarm)
        if swarm.stdout.readline() != "connected\n":
            sys.exit("the simulated minions ended")
        connected = time.monotonic() - begin
        local = salt.client.LocalClient(str(folder / "etc/master"))
        # The first one warms it.
        ping(local, "simulated*", simulated)
        before = cpu(family(master.pid))
        everyone = [ping(local, "simulated*", simulated) for _ in range(BROADCASTS)]
        spent = (cpu(family(master.pid)) - before) / (BROADCASTS * simulated)
        figures = {"connected_s": connected, "fanout_s": statistics.median(everyone), "server_cpu_us_per_reply": spent * 1e6}
        return figures | (measure_one(folder, local, master.pid, simulated, real, others) if real else {})
    finally:
        for process in [*others, master]:
            process.terminate()
        for process in [*others, master]:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


if __name__ == "__main__":
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    role, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    if role == "minions":
        asyncio.run(minions(folder, int(sys.argv[3])))
    else:
        print(json.dumps(measure(folder, int(sys.argv[3]), int(sys.argv[4]))))
