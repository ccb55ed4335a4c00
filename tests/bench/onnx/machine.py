"""What machine this is, and who else uses it."""

import os
import re
import time

KNOWN = ["avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"]


def processor():
    info = open("/proc/cpuinfo").read()
    flags = set((re.search(r"^flags\s*: (.*)$", info, re.M) or [0, ""])[1].split())
    name = re.search(r"^model name\s*: (.*)$", info, re.M)
    return {"name": name[1] if name else "unknown processor", "logical": os.cpu_count(), "flags": [f for f in KNOWN if f in flags]}


def busy_s():
    """All processors' time that was not idle; what a hypervisor took counts too."""
    user, nice, system, _, _, irq, softirq, steal = map(int, open("/proc/stat").readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_s():
    """This process, and children that have ended."""
    return sum(os.times()[:4])


def watch_others():
    """How many processors others kept busy since then, on average. Right only while no child of ours runs."""
    begin, busy, own = time.monotonic(), busy_s(), own_s()
    return lambda: max(0.0, (busy_s() - busy - (own_s() - own)) / (time.monotonic() - begin))
